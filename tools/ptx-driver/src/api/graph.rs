//! Graphs: captured work, replayed node by node.

use std::sync::Arc;

use crate::code::{Code, refuse};
use crate::entry::{call_in, store};
use crate::fatal;
use crate::state::{Graph, Handle};
use crate::work::Work;

/// `cuGraphInstantiateWithFlags`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut Handle,
    graph: Handle,
    flags: u64,
) -> u32 {
    call_in("cuGraphInstantiateWithFlags", |driver, context| {
        // Allowed are free on launch, upload and priorities of nodes, but not launch by the device.
        if flags & !0b1011 != 0 {
            return refuse(Code::INVALID_VALUE, format!("flags {flags} of a graph"));
        }
        let nodes = driver.graphs.get(graph)?.nodes.clone();
        let new = driver.executables.add(Graph { nodes, context });
        store(executable, new)
    })
}

/// `cuGraphUpload`
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: Handle, stream: Handle) -> u32 {
    call_in("cuGraphUpload", |driver, context| {
        driver.executables.get(executable)?;
        let stream = driver.stream(context, stream)?;
        if driver.streams.get(stream)?.capture.is_some() {
            let why = "a graph is uploaded to a stream that captures";
            return refuse(Code::STREAM_CAPTURE_UNSUPPORTED, why);
        }
        Ok(())
    })
}

/// `cuGraphLaunch`
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: Handle, stream: Handle) -> u32 {
    call_in("cuGraphLaunch", |driver, context| {
        let graph = driver.executables.get(executable)?;
        if graph.context != context {
            return refuse(Code::INVALID_HANDLE, "the graph is of another context");
        }
        let nodes = Arc::clone(&graph.nodes);
        for node in nodes.iter() {
            let Work::Launch(kernel) = node else { continue };
            if !driver.modules.iter().any(|(_, m)| Arc::ptr_eq(&m.module, &kernel.module)) {
                fatal("a graph is launched after a module of its kernels was unloaded");
            }
        }
        let stream = driver.stream(context, stream)?;
        nodes.iter().try_for_each(|node| driver.enqueue(stream, node.clone()))
    })
}

/// `cuGraphExecDestroy`
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: Handle) -> u32 {
    call_in("cuGraphExecDestroy", |driver, _| driver.executables.remove(executable).map(drop))
}

/// `cuGraphDestroy`
#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Handle) -> u32 {
    call_in("cuGraphDestroy", |driver, _| driver.graphs.remove(graph).map(drop))
}
