//! cuBLASLt: the meaning of descriptors, and refusals.

use std::ffi::c_void;
use std::ptr::{null, null_mut, without_provenance_mut};

use cudarc::cublaslt::sys::{self as lt, cublasStatus_t as Is};
use cudarc::driver::sys;
use half::bf16;

use crate::rules::{context, memory, ok};
use crate::run;

const F32: lt::cudaDataType = lt::cudaDataType_t::CUDA_R_32F;
const BF16: lt::cudaDataType = lt::cudaDataType_t::CUDA_R_16BF;
static WORKSPACE: usize = 1 << 20;

#[track_caller]
fn fine(got: Is) {
    assert_eq!(got, Is::CUBLAS_STATUS_SUCCESS);
}

/// Uploads values in a type.
fn put(values: &[f32], kind: lt::cudaDataType) -> u64 {
    let bytes: Vec<u8> = match kind {
        F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        _ => values.iter().flat_map(|&x| bf16::from_f32(x).to_ne_bytes()).collect(),
    };
    let to = memory(bytes.len());
    // SAFETY: as documented; this holds for all of this file.
    unsafe { ok(sys::cuMemcpyHtoD_v2(to, bytes.as_ptr().cast(), bytes.len())) };
    to
}

fn get(from: u64, count: usize, kind: lt::cudaDataType) -> Vec<f32> {
    let mut bytes = vec![0u8; count * if kind == F32 { 4 } else { 2 }];
    // SAFETY: see `put`.
    unsafe { ok(sys::cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), from, bytes.len())) };
    if kind == F32 {
        bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_ne_bytes(word)).collect()
    } else {
        bytes.as_chunks::<2>().0.iter().map(|&pair| bf16::from_ne_bytes(pair).to_f32()).collect()
    }
}

/// One product with its handle and descriptors.
struct Call {
    handle: lt::cublasLtHandle_t,
    product: lt::cublasLtMatmulDesc_t,
    layouts: [lt::cublasLtMatrixLayout_t; 4],
    workspace: u64,
}

/// Rows, columns, leading dimension and type.
type Shape = (u64, u64, i64, lt::cudaDataType);

impl Call {
    fn new(shapes: [Shape; 4]) -> Call {
        let (mut handle, mut product) = (null_mut(), null_mut());
        let compute = lt::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        // SAFETY: see `put`.
        unsafe {
            fine(lt::cublasLtCreate(&mut handle));
            fine(lt::cublasLtMatmulDescCreate(&mut product, compute, F32));
        }
        let layouts = shapes.map(|(rows, columns, ld, kind)| {
            let mut layout = null_mut();
            // SAFETY: see `put`.
            unsafe { fine(lt::cublasLtMatrixLayoutCreate(&mut layout, kind, rows, columns, ld)) };
            layout
        });
        Call { handle, product, layouts, workspace: memory(WORKSPACE) }
    }

    fn set<T>(&self, attribute: lt::cublasLtMatmulDescAttributes_t, value: T) -> Is {
        let value = (&raw const value).cast();
        // SAFETY: see `put`.
        unsafe {
            lt::cublasLtMatmulDescSetAttribute(self.product, attribute, value, size_of::<T>())
        }
    }

    fn layout<T>(&self, at: usize, attribute: lt::cublasLtMatrixLayoutAttribute_t, value: T) -> Is {
        let (layout, value) = (self.layouts[at], (&raw const value).cast());
        // SAFETY: see `put`.
        unsafe { lt::cublasLtMatrixLayoutSetAttribute(layout, attribute, value, size_of::<T>()) }
    }

    /// Chooses an algorithm for operands that are aligned to `alignment` bytes.
    fn choose(&self, alignment: u32) -> Result<lt::cublasLtMatmulHeuristicResult_t, Is> {
        use lt::cublasLtMatmulPreferenceAttributes_t as Of;
        let (mut preference, mut count) = (null_mut(), 0);
        let mut found = std::mem::MaybeUninit::uninit();
        let [a, b, c, d] = self.layouts;
        // SAFETY: see `put`; the result is read only if it was written.
        unsafe {
            fine(lt::cublasLtMatmulPreferenceCreate(&mut preference));
            let set = |attribute, value: *const c_void, bytes| {
                fine(lt::cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, bytes));
            };
            let workspace = (&raw const WORKSPACE).cast();
            set(Of::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace, 8);
            for attribute in [
                Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ] {
                set(attribute, (&raw const alignment).cast(), 4);
            }
            let (handle, product) = (self.handle, self.product);
            let (to, count) = (found.as_mut_ptr(), &mut count);
            let status = lt::cublasLtMatmulAlgoGetHeuristic(
                handle, product, a, b, c, d, preference, 1, to, count,
            );
            fine(lt::cublasLtMatmulPreferenceDestroy(preference));
            if status == Is::CUBLAS_STATUS_SUCCESS { Ok(found.assume_init()) } else { Err(status) }
        }
    }

    fn run(&self, alpha: f32, beta: f32, [a, b, c, d]: [u64; 4], aligned: u32, room: usize) -> Is {
        let algorithm = match self.choose(aligned) {
            Ok(found) => found.algo,
            Err(status) => return status,
        };
        let at = |address: u64| without_provenance_mut::<c_void>(address as usize);
        let [la, lb, lc, ld] = self.layouts;
        // SAFETY: see `put`.
        unsafe {
            lt::cublasLtMatmul(
                self.handle,
                self.product,
                (&raw const alpha).cast(),
                at(a),
                la,
                at(b),
                lb,
                (&raw const beta).cast(),
                at(c),
                lc,
                at(d),
                ld,
                &algorithm,
                at(self.workspace),
                room,
                null_mut(),
            )
        }
    }
}

use lt::cublasLtMatmulDescAttributes_t as Of;
use lt::cublasLtMatrixLayoutAttribute_t as Layout;

#[test]
fn descriptors_mean_what_is_documented() {
    run("products::child_meaning", &[]).quietly();
}

pub fn child_meaning() {
    context();
    // Column-major with gaps: A is [2, 3] in lines of 4, B [3, 2] in lines of 3, D [2, 2] of 5.
    let a = put(&[1., 2., -9., -9., 3., 4., -9., -9., 5., 6.], F32);
    let b = put(&[1., 0., 2., 0., 1., -1.], F32);
    let old = [10.0f32, 20.0, 7.0, 7.0, 7.0, 30.0, 40.0];
    let d = put(&old, F32);
    let call = Call::new([(2, 3, 4, F32), (3, 2, 3, F32), (2, 2, 5, F32), (2, 2, 5, F32)]);
    // A = [1 3 5; 2 4 6], B = [1 0; 0 1; 2 -1], A B = [11 -2; 14 -2].
    fine(call.run(2.0, 0.5, [a, b, d, d], 256, WORKSPACE));
    assert_eq!(get(d, 7, F32), [27.0, 38.0, 7.0, 7.0, 7.0, 11.0, 16.0]);
    // Transposed: A stored [3, 2] in lines of 3 gives the same op(A).
    let turned = put(&[1., 3., 5., 2., 4., 6.], F32);
    let call = Call::new([(3, 2, 3, F32), (3, 2, 3, F32), (2, 2, 2, F32), (2, 2, 2, F32)]);
    fine(call.set(Of::CUBLASLT_MATMUL_DESC_TRANSA, 1i32));
    let d = put(&[f32::NAN; 4], F32);
    // C is not read if beta is zero.
    fine(call.run(1.0, 0.0, [turned, b, d, d], 256, WORKSPACE));
    assert_eq!(get(d, 4, F32), [11.0, 14.0, -2.0, -2.0]);
    // Row-major: the same values of A in rows.
    let call = Call::new([(2, 3, 3, F32), (3, 2, 3, F32), (2, 2, 2, F32), (2, 2, 2, F32)]);
    fine(call.layout(0, Layout::CUBLASLT_MATRIX_LAYOUT_ORDER, 1i32));
    fine(call.run(1.0, 0.0, [turned, b, d, d], 256, WORKSPACE));
    assert_eq!(get(d, 4, F32), [11.0, 14.0, -2.0, -2.0]);
    // A batch that shares B, in bf16, rounded once: 257 + 1/2 is 258 there.
    let a = put(&[256.0, 1.0, 2.0, 4.0], BF16);
    let b = put(&[1.0, 1.5], BF16);
    let call = Call::new([(1, 2, 1, BF16), (2, 1, 2, BF16), (1, 1, 1, BF16), (1, 1, 1, BF16)]);
    for (at, stride) in [(0, 2i64), (1, 0), (2, 3), (3, 3)] {
        fine(call.layout(at, Layout::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 2i32));
        fine(call.layout(at, Layout::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride));
    }
    let d = put(&[5.0; 4], BF16);
    fine(call.run(1.0, 0.0, [a, b, d, d], 256, WORKSPACE));
    assert_eq!(get(d, 4, BF16), [258.0, 5.0, 5.0, 8.0]);
}

#[test]
fn epilogues_do_what_is_documented() {
    run("products::child_epilogues", &[]).quietly();
}

/// Computes GELU in its tanh form, and its derivative, in f64.
fn gelu(x: f64) -> [f64; 2] {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    let slope = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
    let t = inner.tanh();
    [0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope]
}

pub fn child_epilogues() {
    context();
    // op(A) op(B) = [1; 2] [0.5 -1] = [0.5 -1; 1 -2], by columns 0.5, 1, -1, -2.
    let product = [0.5f64, 1.0, -1.0, -2.0];
    let (a, b) = (put(&[1.0, 2.0], F32), put(&[0.5, -1.0], F32));
    let shape = [(2, 1, 2, F32), (1, 2, 1, F32), (2, 2, 2, F32), (2, 2, 2, F32)];
    let run = |epilogue: u32, bias: u64, aux: u64| {
        let call = Call::new(shape);
        fine(call.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue));
        fine(call.set(Of::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias));
        fine(call.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux));
        fine(call.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 8i64));
        let d = put(&[9.0; 4], F32);
        fine(call.run(1.0, 0.0, [a, b, d, d], 256, WORKSPACE));
        get(d, 4, F32)
    };
    let close = |got: &[f32], want: &[f64]| {
        for (got, want) in got.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got}, not {want}");
        }
    };
    // The bias has one value per row of D.
    let bias = put(&[0.25, -0.5], F32);
    let biased = [0.75, 0.5, -0.75, -2.5];
    close(&run(4, bias, 0), &biased);
    close(&run(2, 0, 0), &[0.5, 1.0, 0.0, 0.0]);
    close(&run(36, bias, 0), &biased.map(|x| gelu(x)[0]));
    // The input of GELU, in lines of 8.
    let aux = put(&[7.0; 16], F32);
    close(&run(164, bias, aux), &biased.map(|x| gelu(x)[0]));
    close(&get(aux, 11, F32), &[0.75, 0.5, 7., 7., 7., 7., 7., 7., -0.75, -2.5, 7.0]);
    // Backward: multiplied by the derivative at that input; the gradient of the bias sums the
    // columns.
    let slopes: [f64; 4] = std::array::from_fn(|i| product[i] * gelu(biased[i])[1]);
    close(&run(192, 0, aux), &slopes);
    let gradient = put(&[7.0; 2], F32);
    close(&run(208, gradient, aux), &slopes);
    close(&get(gradient, 2, F32), &[slopes[0] + slopes[2], slopes[1] + slopes[3]]);
    // Sums over k of op(A), one value per row, and of op(B), one value per column.
    close(&run(256, gradient, 0), &product);
    close(&get(gradient, 2, F32), &[1.0, 2.0]);
    close(&run(512, gradient, 0), &product);
    close(&get(gradient, 2, F32), &[0.5, -1.0]);
}

#[test]
fn relu_keeps_a_mask_of_bits() {
    run("products::child_mask", &[]).quietly();
}

pub fn child_mask() {
    context();
    let (a, b) = (put(&[1.0, 2.0], F32), put(&[0.5, -1.0], F32));
    let shape = [(2, 1, 2, F32), (1, 2, 1, F32), (2, 2, 2, F32), (2, 2, 2, F32)];
    let gradient = put(&[7.0; 2], F32);
    // A bit for each row, in lines of 128.
    let mask = memory(64);
    let run = |epilogue: u32, bias: u64| {
        let call = Call::new(shape);
        fine(call.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue));
        fine(call.set(Of::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias));
        fine(call.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, mask));
        fine(call.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 128i64));
        let d = put(&[9.0; 4], F32);
        fine(call.run(1.0, 0.0, [a, b, d, d], 256, WORKSPACE));
        get(d, 4, F32)
    };
    let other = put(&[2.0, -1.5], F32);
    assert_eq!(run(134, other), [2.5, 0.0, 1.0, 0.0]);
    let mut bits = [0u8; 17];
    // SAFETY: see `put`.
    unsafe { ok(sys::cuMemcpyDtoH_v2(bits.as_mut_ptr().cast(), mask, 17)) };
    assert_eq!((bits[0], bits[16]), (1, 1));
    assert_eq!(run(152, gradient), [0.5, 0.0, -1.0, 0.0]);
    assert_eq!(get(gradient, 2, F32), [-0.5, 0.0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let messages = run("products::child_refusals", &[]).well();
    let words = ["op(A) is [2, 3], op(B) is [4, 2]", "overlap", "not at a multiple of 256 bytes"];
    for words in words {
        assert!(messages.iter().any(|line| line.contains(words)), "{words}: {messages:#?}");
    }
}

pub fn child_refusals() {
    let mut handle = null_mut();
    // SAFETY: see `put`.
    unsafe { assert_eq!(lt::cublasLtCreate(&mut handle), Is::CUBLAS_STATUS_NOT_INITIALIZED) };
    context();
    let (invalid, no) = (Is::CUBLAS_STATUS_INVALID_VALUE, Is::CUBLAS_STATUS_NOT_SUPPORTED);
    let [a, b, d] = [put(&[1.0; 200], F32), put(&[1.0; 200], F32), put(&[1.0; 200], F32)];
    let plain = |a: Shape, b: Shape, d: Shape| Call::new([a, b, d, d]);
    let fits = || plain((2, 3, 2, F32), (3, 2, 3, F32), (2, 2, 2, F32));
    fine(fits().run(1.0, 0.0, [a, b, d, d], 256, WORKSPACE));
    let status = |call: Call| call.run(1.0, 0.0, [a, b, d, d], 4, WORKSPACE);
    assert_eq!(status(plain((2, 3, 2, F32), (4, 2, 4, F32), (2, 2, 2, F32))), invalid);
    assert_eq!(status(plain((2, 3, 1, F32), (3, 2, 3, F32), (2, 2, 2, F32))), invalid);
    assert_eq!(status(plain((2, 3, 2, F32), (3, 2, 3, F32), (2, 3, 2, F32))), invalid);
    assert_eq!(status(plain((2, 3, 2, F32), (3, 2, 3, F32), (2, 2, 2, BF16))), no);
    assert_eq!(status(plain((2, 3, 2, BF16), (3, 2, 3, F32), (2, 2, 2, F32))), no);
    // Beyond the end of the memory, less aligned than promised, or overlapping another operand.
    assert_eq!(status(plain((2, 3, 100, F32), (3, 2, 3, F32), (2, 2, 2, F32))), invalid);
    assert_eq!(fits().run(1.0, 0.0, [a + 4, b, d, d], 256, WORKSPACE), invalid);
    fine(fits().run(1.0, 0.0, [a + 4, b, d, d], 4, WORKSPACE));
    assert_eq!(fits().run(1.0, 0.0, [a, b, d, b + 8], 4, WORKSPACE), invalid);
    assert_eq!(fits().run(1.0, 0.0, [a, b, d, d], 4, 100), invalid);
    assert_eq!(fits().run(1.0, 0.0, [a, 0, d, d], 4, WORKSPACE), invalid);
    // Attributes of the wrong size or value; batches that do not agree or overlap.
    assert_eq!(fits().set(Of::CUBLASLT_MATMUL_DESC_TRANSA, 1u8), invalid);
    assert_eq!(fits().set(Of::CUBLASLT_MATMUL_DESC_TRANSA, 3i32), invalid);
    let call = fits();
    fine(call.layout(3, Layout::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 2i32));
    assert_eq!(status(call), invalid);
    let call = fits();
    for at in 0..4 {
        fine(call.layout(at, Layout::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 2i32));
    }
    assert_eq!(status(call), invalid);
}

#[test]
fn epilogues_and_algorithms_that_do_not_fit_are_refused() {
    run("products::child_wrong_epilogues", &[]).well();
}

pub fn child_wrong_epilogues() {
    context();
    let (invalid, no) = (Is::CUBLAS_STATUS_INVALID_VALUE, Is::CUBLAS_STATUS_NOT_SUPPORTED);
    let [a, b, d] = [put(&[1.0; 200], F32), put(&[1.0; 200], F32), put(&[1.0; 200], F32)];
    let (left, right, both) = ((2, 3, 2, F32), (3, 2, 3, F32), (2, 2, 2, F32));
    let fits = || Call::new([left, right, both, both]);
    let status = |call: Call| call.run(1.0, 0.0, [a, b, d, d], 4, WORKSPACE);
    // Epilogues: no pointer, a leading dimension that is no multiple of 8, D by rows.
    let with = |epilogue: u32| {
        let call = fits();
        fine(call.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue));
        call
    };
    assert_eq!(status(with(4)), invalid);
    assert_eq!(status(with(3)), invalid);
    let call = with(160);
    fine(call.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 12i64));
    fine(call.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, a));
    assert_eq!(status(call), invalid);
    let call = with(32);
    fine(call.layout(2, Layout::CUBLASLT_MATRIX_LAYOUT_ORDER, 1i32));
    fine(call.layout(3, Layout::CUBLASLT_MATRIX_LAYOUT_ORDER, 1i32));
    assert_eq!(status(call), no);
    // SAFETY: see `put`.
    unsafe {
        let at = |address: u64| without_provenance_mut::<c_void>(address as usize);
        let call = fits();
        let [la, lb, lc, ld] = call.layouts;
        let one = 1.0f32;
        let other = with(32).choose(4).unwrap().algo;
        for (alpha, algorithm) in [(null(), null()), ((&raw const one).cast(), &raw const other)] {
            let status = lt::cublasLtMatmul(
                call.handle,
                call.product,
                alpha,
                at(a),
                la,
                at(b),
                lb,
                (&raw const one).cast(),
                at(d),
                lc,
                at(d),
                ld,
                algorithm,
                at(call.workspace),
                WORKSPACE,
                null_mut(),
            );
            assert_eq!(status, invalid);
        }
    }
}
