//! Launches.

use std::ffi::c_void;
use std::sync::Arc;

use ptx_vm::Kernel as Described;

use crate::code::{Code, Done, refuse};
use crate::entry::call_in;
use crate::state::{Function, Handle};
use crate::work::{KernelLaunch, Work};

/// Entries of the list `extra` (`cuda.h`).
const END: usize = 0;
const BUFFER: usize = 1;
const BUFFER_BYTES: usize = 2;

/// `cuLaunchKernel`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    stream: Handle,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> u32 {
    call_in("cuLaunchKernel", |driver, context| {
        let function = driver.functions.get(function)?.clone();
        if driver.modules.get(function.from)?.context != context {
            return refuse(Code::INVALID_HANDLE, "the function is of another context");
        }
        let stream = driver.stream(context, stream)?;
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        fits(&function, grid, block, dynamic_shared)?;
        let kernel = &function.module.kernels()[function.index];
        // SAFETY: the caller passes a list of one of the two forms.
        let params = unsafe { packed(kernel, params, extra)? };
        let (module, index) = (function.module.clone(), function.index);
        let kernel = KernelLaunch { module, index, grid, block, dynamic_shared, params };
        driver.enqueue(stream, Work::Launch(Arc::new(kernel)))?;
        if driver.settings.blocking && driver.streams.get(stream)?.capture.is_none() {
            driver.flush(stream)?;
            driver.healthy(context)?;
        }
        Ok(())
    })
}

/// Checks a launch against the limits of every device (CUDA programming guide, compute
/// capabilities) and of the kernel.
fn fits(function: &Function, grid: [u32; 3], block: [u32; 3], shared: u32) -> Done {
    let kernel = &function.module.kernels()[function.index];
    let invalid = |why: String| refuse(Code::INVALID_VALUE, format!("{}: {why}", kernel.name));
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return invalid(format!("a grid of {grid:?} blocks; the most is 2147483647, 65535, 65535"));
    }
    let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
    let most = u64::from(kernel.max_threads.unwrap_or(1024).min(1024));
    if threads == 0 || threads > most || block[2] > 64 {
        return invalid(format!(
            "a block of {block:?} threads; the most is {most}, and 64 along z"
        ));
    }
    if u64::from(shared) > function.dynamic_most {
        return invalid(format!(
            "{shared} bytes of dynamic shared memory; it may have {}, beyond 48 KiB only after \
             cuFuncSetAttribute",
            function.dynamic_most
        ));
    }
    Ok(())
}

/// Returns the arguments, packed as the kernel reads them.
///
/// # Safety
/// `params` is null or points to a pointer for each parameter; `extra` is null or a terminated
/// list.
unsafe fn packed(
    kernel: &Described,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> Done<Vec<u8>> {
    let needed = kernel.params.last().map_or(0, |last| (last.offset + last.size) as usize);
    let invalid = |why: String| refuse(Code::INVALID_VALUE, format!("{}: {why}", kernel.name));
    if !params.is_null() && !extra.is_null() {
        return invalid("arguments in both forms".into());
    }
    if extra.is_null() {
        let mut bytes = vec![0; needed];
        if params.is_null() && needed > 0 {
            return invalid(format!("no arguments for {} parameters", kernel.params.len()));
        }
        for (i, param) in kernel.params.iter().enumerate() {
            // SAFETY: the caller passes one pointer for each parameter.
            let from = unsafe { params.add(i).read() };
            if from.is_null() {
                return invalid(format!("the pointer to parameter {i} is null"));
            }
            let (at, size) = (param.offset as usize, param.size as usize);
            // SAFETY: the caller's pointer is to a value of the parameter's size.
            let value = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size) };
            bytes[at..at + size].copy_from_slice(value);
        }
        return Ok(bytes);
    }
    // SAFETY: guaranteed by the caller.
    let (buffer, size) = unsafe { listed(kernel, extra)? };
    if size != needed {
        let count = kernel.params.len();
        return invalid(format!("{size} bytes of arguments; its {count} parameters are {needed}"));
    }
    if needed == 0 {
        return Ok(Vec::new());
    }
    if buffer.is_null() {
        return invalid("the buffer of arguments is null".into());
    }
    // SAFETY: the caller's buffer has the stated size.
    Ok(unsafe { std::slice::from_raw_parts(buffer, size) }.to_vec())
}

/// Returns buffer and size in the list `extra`.
///
/// # Safety
/// The list is terminated, and each entry before the end is followed by a value.
unsafe fn listed(kernel: &Described, extra: *const *const c_void) -> Done<(*const u8, usize)> {
    let invalid = |why: String| refuse(Code::INVALID_VALUE, format!("{}: {why}", kernel.name));
    let (mut buffer, mut size) = (std::ptr::null::<u8>(), 0);
    let mut at = extra;
    loop {
        // SAFETY: guaranteed by the caller.
        let (what, value) = unsafe { (at.read() as usize, at.add(1)) };
        match what {
            END => return Ok((buffer, size)),
            // SAFETY: guaranteed by the caller.
            BUFFER => buffer = unsafe { value.read() }.cast(),
            BUFFER_BYTES => {
                // SAFETY: guaranteed by the caller; the value points to a size.
                let from = unsafe { value.read() }.cast::<usize>();
                if from.is_null() {
                    return invalid("the pointer to the size of the arguments is null".into());
                }
                // SAFETY: as above.
                size = unsafe { from.read_unaligned() };
            }
            other => return invalid(format!("entry {other} in the list `extra`")),
        }
        // SAFETY: guaranteed by the caller.
        at = unsafe { at.add(2) };
    }
}
