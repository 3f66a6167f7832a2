//! Modules and launches: accepted PTX, arguments, limits of shared memory.

use std::ffi::{CString, c_void};
use std::ptr::{null_mut, without_provenance_mut};

use cudarc::driver::sys::{self, CUresult as Is};

use crate::rules::{context, gives, memory, ok, stream};
use crate::run;

/// Kernel whose single lane stores a byte and eight bytes of its arguments and a word of dynamic
/// shared memory.
const SUM: &str = ".version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 room[];
.visible .entry sum(.param .u32 a, .param .u64 b, .param .u64 to)
.maxntid 64, 1, 1
{
    .shared .align 4 .b8 fixed[1024];
    .reg .b32 %r<5>;
    .reg .b64 %d<5>;
    .reg .pred %p<2>;
    mov.u32 %r2, %tid.x;
    setp.ne.u32 %p1, %r2, 0;
    @%p1 bra DONE;
    ld.param.u32 %r1, [a];
    ld.param.u64 %d1, [b];
    ld.param.u64 %d2, [to];
    st.shared.u32 [fixed], %r1;
    ld.shared.u32 %r3, [fixed];
    cvt.u64.u32 %d3, %r3;
    add.s64 %d4, %d3, %d1;
    st.global.u64 [%d2], %d4;
DONE:
    ret;
}
";

pub fn load(text: &str) -> (sys::CUmodule, Is, String) {
    let text = CString::new(text).unwrap();
    let mut log = [0u8; 512];
    let mut options = [
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), without_provenance_mut(log.len())];
    let mut module = null_mut();
    // SAFETY: as documented; this holds for all files of this test.
    let code = unsafe {
        let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
        sys::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, options, values)
    };
    let log = String::from_utf8_lossy(&log[..values[1] as usize]).into_owned();
    (module, code, log)
}

fn function(module: sys::CUmodule, name: &str) -> (sys::CUfunction, Is) {
    let (name, mut function) = (CString::new(name).unwrap(), null_mut());
    // SAFETY: see `load`.
    let code = unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) };
    (function, code)
}

/// Loads the kernel above.
pub fn sum() -> (sys::CUmodule, sys::CUfunction) {
    let (module, code, log) = load(SUM);
    ok(code);
    assert_eq!(log, "");
    let (function, code) = function(module, "sum");
    ok(code);
    (module, function)
}

/// Launches with packed arguments.
pub fn launch(
    function: sys::CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: sys::CUstream,
    arguments: &[u8],
) -> Is {
    let mut bytes = arguments.len();
    let mut extra = [
        without_provenance_mut(sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize),
        arguments.as_ptr().cast_mut().cast(),
        without_provenance_mut(sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize),
        (&raw mut bytes).cast(),
        without_provenance_mut(sys::CU_LAUNCH_PARAM_END_AS_INT as usize),
    ];
    let ([gx, gy, gz], [x, y, z]) = (grid, block);
    let extra = extra.as_mut_ptr();
    // SAFETY: see `load`.
    unsafe { sys::cuLaunchKernel(function, gx, gy, gz, x, y, z, shared, stream, null_mut(), extra) }
}

/// Packs the arguments of `sum`.
pub fn arguments(a: u32, b: u64, to: u64) -> Vec<u8> {
    let mut bytes = a.to_ne_bytes().to_vec();
    bytes.resize(8, 0);
    bytes.extend(b.to_ne_bytes());
    bytes.extend(to.to_ne_bytes());
    bytes
}

/// Reads eight bytes of the device, after all work of a stream.
pub fn value(from: u64, stream: sys::CUstream) -> u64 {
    let mut host = 0u64;
    // SAFETY: see `load`.
    unsafe {
        ok(sys::cuMemcpyDtoHAsync_v2((&raw mut host).cast(), from, 8, stream));
        ok(sys::cuStreamSynchronize(stream));
    }
    host
}

#[test]
fn arguments_come_in_two_forms_and_have_to_fit() {
    let messages = run("launches::child_arguments", &[]).well();
    let size = "cuLaunchKernel: CUDA_ERROR_INVALID_VALUE: sum: 23 bytes of arguments; its 3 \
                parameters are 24";
    assert!(messages.iter().any(|line| line == size), "{messages:#?}");
}

pub fn child_arguments() {
    context();
    let ((module, function), stream, to) = (sum(), stream(), memory(8));
    let one = [1; 3];
    let packed = arguments(7, 1 << 40, to);
    ok(launch(function, one, [32, 1, 1], 0, stream, &packed));
    assert_eq!(value(to, stream), (1 << 40) + 7);
    let invalid = Is::CUDA_ERROR_INVALID_VALUE;
    gives(launch(function, one, one, 0, stream, &packed[..23]), invalid);
    gives(launch(function, one, one, 0, stream, &[packed.clone(), vec![0]].concat()), invalid);
    let (mut a, mut b, mut at) = (5u32, 6u64, to);
    let mut list = [(&raw mut a).cast(), (&raw mut b).cast(), (&raw mut at).cast::<c_void>()];
    // SAFETY: see `load`.
    unsafe {
        let list = list.as_mut_ptr();
        let with =
            |list, extra| sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, list, extra);
        ok(with(list, null_mut()));
        assert_eq!(value(to, stream), 11);
        gives(with(list, list), invalid);
        gives(with(null_mut(), null_mut()), invalid);
        ok(sys::cuModuleUnload(module));
    }
}

#[test]
fn grids_blocks_and_shared_memory_have_limits() {
    run("launches::child_limits", &[("CHILD_MOST", "232448")]).well();
    let a100 = [("PTX_DRIVER_CAPABILITY", "8.0"), ("CHILD_MOST", "166912")];
    run("launches::child_limits", &a100).well();
}

pub fn child_limits() {
    context();
    let ((_, function), stream, to) = (sum(), stream(), memory(8));
    let packed = arguments(1, 2, to);
    let with = |grid, block, shared| launch(function, grid, block, shared, stream, &packed);
    let (invalid, one) = (Is::CUDA_ERROR_INVALID_VALUE, [1; 3]);
    gives(with([0, 1, 1], one, 0), invalid);
    gives(with([1, 65536, 1], one, 0), invalid);
    gives(with([1, 1, 65536], one, 0), invalid);
    gives(with(one, [0, 1, 1], 0), invalid);
    // The kernel is for 64 threads.
    ok(with(one, [64, 1, 1], 0));
    gives(with(one, [65, 1, 1], 0), invalid);
    // 48 KiB including the static part, without opt-in.
    ok(with(one, one, 47 << 10));
    gives(with(one, one, (47 << 10) + 1), invalid);
    let most: i32 = std::env::var("CHILD_MOST").unwrap().parse().unwrap();
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let dynamic = most - 1024;
    // SAFETY: see `load`.
    unsafe {
        gives(sys::cuFuncSetAttribute(function, attribute, dynamic + 1), invalid);
        ok(sys::cuFuncSetAttribute(function, attribute, dynamic));
        let mut got = 0;
        ok(sys::cuFuncGetAttribute(&mut got, attribute, function));
        assert_eq!(got, dynamic);
        let opted = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        ok(sys::cuDeviceGetAttribute(&mut got, opted, 0));
        assert_eq!(got, most);
    }
    ok(with(one, one, dynamic as u32));
    gives(with(one, one, dynamic as u32 + 1), invalid);
    assert_eq!(value(to, stream), 3);
}

#[test]
fn only_ptx_for_the_device_and_the_driver_is_taken() {
    run("launches::child_ptx", &[("PTX_DRIVER_VERSION", "12000")]).well();
}

pub fn child_ptx() {
    context();
    let (module, code, _) = load(SUM);
    ok(code);
    gives(function(module, "summ").1, Is::CUDA_ERROR_NOT_FOUND);
    let with = |from: &str, to: &str| {
        let (_, code, log) = load(&SUM.replace(from, to));
        assert!(!log.is_empty());
        code
    };
    gives(with("8.0", "8.1"), Is::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    gives(with("sm_80", "sm_100"), Is::CUDA_ERROR_NO_BINARY_FOR_GPU);
    gives(with("ld.param.u32", "ld.param.u32 ]"), Is::CUDA_ERROR_INVALID_PTX);
    gives(with(SUM, "\x7fELF"), Is::CUDA_ERROR_NO_BINARY_FOR_GPU);
}
