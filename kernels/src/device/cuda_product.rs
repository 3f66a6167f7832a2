//! Matrix products by cuBLASLt.
//!
//! The library stores matrices by columns. A row-major `C[n, m] = A B` is, read by columns, `C^T =
//! B^T A^T`: the same bytes with the operands exchanged, so `B` goes first and nothing is copied.
//! What cuBLASLt needs to know about a product (descriptors, layouts, the algorithm it prefers) is
//! asked once for each set of sizes and kept: the same sizes then always take the same algorithm.

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::result::{self as calls, CublasError};
use cudarc::cublaslt::sys as lt;
use cudarc::driver::{result as driver, sys};

use super::backend::{Product, Storage};
use crate::matmul::{Beta, MatMul};
use crate::{KernelError, Result};

/// Scratch memory that an algorithm may use: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Handle, scratch memory and what is known of each product.
pub(super) struct Products {
    device: String,
    handle: lt::cublasLtHandle_t,
    workspace: u64,
    plans: HashMap<Asked, Plan>,
}

/// What a plan depends on. Alignment counts: the fastest algorithms need 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Asked {
    sizes: [usize; 7],
    transposed: [bool; 2],
    storage: [Storage; 2],
    alignment: [u32; 3],
}

/// Everything but the addresses.
struct Plan {
    product: lt::cublasLtMatmulDesc_t,
    /// Of the first operand (`B`), the second (`A`) and the result.
    layouts: [lt::cublasLtMatrixLayout_t; 3],
    algorithm: lt::cublasLtMatmulAlgo_t,
}

fn asked(p: &Product) -> Asked {
    let MatMul { batch, n, m, k, trans_a, trans_b, stride_a, stride_b, stride_c } = p.sizes;
    let alignment = |address: u64| 1 << address.trailing_zeros().min(8);
    Asked {
        sizes: [batch, n, m, k, stride_a, stride_b, stride_c],
        transposed: [trans_a, trans_b],
        storage: [p.operands, p.result],
        alignment: [alignment(p.b), alignment(p.a), alignment(p.c)],
    }
}

fn data_type(storage: Storage) -> lt::cudaDataType {
    match storage {
        Storage::F32 => lt::cudaDataType_t::CUDA_R_32F,
        Storage::Bf16 => lt::cudaDataType_t::CUDA_R_16BF,
    }
}

impl Products {
    /// Needs the library to be present and a context to be current.
    pub fn open(device: &str) -> Result<Products> {
        let failed = |what: String| KernelError::Device {
            device: device.into(),
            action: "prepare matrix products",
            what,
        };
        let handle = calls::create_handle().map_err(|error| failed(format!("{error:?}")))?;
        // SAFETY: a context is current; cuBLASLt writes the workspace before it reads it.
        let workspace = unsafe { driver::malloc_sync(WORKSPACE) };
        let workspace = workspace.map_err(|error| failed(format!("{error:?}")))?;
        Ok(Products { device: device.into(), handle, workspace, plans: HashMap::new() })
    }

    pub fn run(&mut self, p: &Product, stream: sys::CUstream) -> Result<()> {
        let key = asked(p);
        let device = self.device.clone();
        let failed = move |error: CublasError| KernelError::Device {
            device,
            action: "multiply",
            what: format!(
                "[{}, {}] x [{}, {}], {} times: {error:?}",
                p.sizes.n, p.sizes.k, p.sizes.k, p.sizes.m, p.sizes.batch
            ),
        };
        if !self.plans.contains_key(&key) {
            let plan = Plan::new(self.handle, &key).map_err(failed.clone())?;
            self.plans.insert(key, plan);
        }
        let plan = &self.plans[&key];
        let beta: f32 = if p.beta == Beta::Add { 1.0 } else { 0.0 };
        let [first, second, result] = plan.layouts;
        let at = |address: u64| address as *mut c_void;
        // SAFETY: the façade has checked that the operands are as long as the sizes say; the
        // scalars are read before the call returns.
        unsafe {
            calls::matmul(
                self.handle,
                plan.product,
                (&raw const p.alpha).cast(),
                (&raw const beta).cast(),
                at(p.b),
                first,
                at(p.a),
                second,
                at(p.c),
                result,
                at(p.c),
                result,
                &plan.algorithm,
                at(self.workspace),
                WORKSPACE,
                stream.cast(),
            )
        }
        .map_err(failed)
    }

    /// Frees everything; a context has to be current.
    pub fn close(&mut self) {
        for (_, plan) in self.plans.drain() {
            plan.free();
        }
        // SAFETY: nothing uses the handle or the memory any more.
        unsafe {
            let _ = calls::destroy_handle(self.handle);
            let _ = driver::free_sync(self.workspace);
        }
    }
}

impl Plan {
    fn new(handle: lt::cublasLtHandle_t, asked: &Asked) -> std::result::Result<Plan, CublasError> {
        let [batch, n, m, k, stride_a, stride_b, stride_c] = asked.sizes;
        let [trans_a, trans_b] = asked.transposed;
        let [operands, result] = asked.storage.map(data_type);
        // True f32 sums: the faster TF32 would round the operands to 11 bits.
        let compute = lt::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let product = calls::create_matmul_desc(compute, lt::cudaDataType_t::CUDA_R_32F)?;
        use lt::cublasLtMatmulDescAttributes_t as Of;
        for (attribute, transposed) in
            [(Of::CUBLASLT_MATMUL_DESC_TRANSA, trans_b), (Of::CUBLASLT_MATMUL_DESC_TRANSB, trans_a)]
        {
            let operation: i32 = if transposed { 1 } else { 0 };
            let (value, size) = ((&raw const operation).cast(), size_of::<i32>());
            // SAFETY: the descriptor was just made; the value is read before the call returns.
            unsafe { calls::set_matmul_desc_attribute(product, attribute, value, size)? };
        }
        // Rows and columns as stored, read by columns: a row-major [r, c] is [c, r] there.
        let stored = |transposed: bool, rows: usize, columns: usize| {
            if transposed { (rows, columns) } else { (columns, rows) }
        };
        let layouts = [
            layout(operands, stored(trans_b, k, m), batch, stride_b)?,
            layout(operands, stored(trans_a, n, k), batch, stride_a)?,
            layout(result, (m, n), batch, stride_c)?,
        ];
        let algorithm = choose(handle, product, layouts, asked.alignment)?;
        Ok(Plan { product, layouts, algorithm })
    }

    fn free(self) {
        // SAFETY: made in `new`, used by nothing any more.
        unsafe {
            for layout in self.layouts {
                let _ = calls::destroy_matrix_layout(layout);
            }
            let _ = calls::destroy_matmul_desc(self.product);
        }
    }
}

/// A batch of column-major matrices without padding.
fn layout(
    kind: lt::cudaDataType,
    (rows, columns): (usize, usize),
    batch: usize,
    stride: usize,
) -> std::result::Result<lt::cublasLtMatrixLayout_t, CublasError> {
    use lt::cublasLtMatrixLayoutAttribute_t as Of;
    let made = calls::create_matrix_layout(kind, rows as u64, columns as u64, rows as i64)?;
    if batch > 1 {
        let (count, stride) = (batch as i32, stride as i64);
        // SAFETY: the layout was just made; the values are read before the calls return.
        unsafe {
            let (attribute, value) = (Of::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &raw const count);
            calls::set_matrix_layout_attribute(made, attribute, value.cast(), size_of::<i32>())?;
            let attribute = Of::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
            let value = (&raw const stride).cast();
            calls::set_matrix_layout_attribute(made, attribute, value, size_of::<i64>())?;
        }
    }
    Ok(made)
}

/// The algorithm that the library thinks fastest.
fn choose(
    handle: lt::cublasLtHandle_t,
    product: lt::cublasLtMatmulDesc_t,
    [first, second, result]: [lt::cublasLtMatrixLayout_t; 3],
    [align_first, align_second, align_result]: [u32; 3],
) -> std::result::Result<lt::cublasLtMatmulAlgo_t, CublasError> {
    use lt::cublasLtMatmulPreferenceAttributes_t as Of;
    let preference = calls::create_matmul_pref()?;
    let workspace = WORKSPACE;
    // SAFETY: all objects were made by the callers of this function and are alive; values are read
    // before each call returns.
    let found = unsafe {
        let set = |attribute, value: *const c_void, size| {
            calls::set_matmul_pref_attribute(preference, attribute, value, size)
        };
        let value = (&raw const workspace).cast();
        set(Of::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, value, size_of::<usize>())
            .and_then(|()| {
                [
                    (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_first),
                    (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_second),
                    (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_result),
                    (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_result),
                ]
                .iter()
                .try_for_each(|(attribute, bytes)| {
                    set(*attribute, (&raw const *bytes).cast(), size_of::<u32>())
                })
            })
            .and_then(|()| {
                calls::get_matmul_algo_heuristic(
                    handle, product, first, second, result, result, preference,
                )
            })
    };
    // SAFETY: made above, not used any more.
    unsafe { calls::destroy_matmul_pref(preference)? };
    found.map(|found| found.algo)
}
