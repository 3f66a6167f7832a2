//! Matrix products by cuBLASLt.
//!
//! The library stores matrices by columns. Read by columns, a row-major `C[n, m] = A B` is
//! `C^T = B^T A^T`: the same bytes with the operands exchanged. So `B` is passed first and nothing
//! is copied. Where the library's names are used below, its `A` is our `B`, its `B` is our `A`, and
//! its `D[m, n]` is our `C[n, m]`. For the epilogues this means:
//!
//! | here | there | length by its documentation |
//! |---|---|---|
//! | bias `[m]`, added to every row of `C` | `BIAS`, `RELU_BIAS`, `.._AUX_BIAS` | rows of `D`: m |
//! | bits where `C` is positive | `AUX` of `RELU_AUX_BIAS`, `DRELU` | a row: whole 128 bits |
//! | sums of the rows of `op(A)`, `[n]` | `BGRADB` | columns of `D`: n, summed over the depth |
//!
//! The vector has the type of `C`, the only one that the library accepts for each pair of types.
//!
//! Descriptors, layouts and the algorithm that cuBLASLt prefers are determined once for each set of
//! sizes and kept: the same sizes then always use the same algorithm. Sums that are split over
//! blocks are combined in f32 in the scratch memory. The library's other ways add in the type of
//! `C`, which rounds bf16 once for each part.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

use cudarc::cublaslt::sys as lt;
use cudarc::driver::{result as driver, sys};

use super::cublaslt::{Done, Library, Status, done};
use super::error::words;
use super::library_search::Search;
use crate::device::backend::{Fused, Product, Storage, mask_row};
use crate::ops::matmul::MatMul;
use crate::{KernelError, Result, Write};

/// Bytes of scratch memory that an algorithm may use: NVIDIA's recommendation for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Handle, scratch memory and plans of products.
pub(super) struct Products {
    device: String,
    library: &'static Library,
    handle: lt::cublasLtHandle_t,
    workspace: u64,
    /// `None` where the library cannot do the product.
    plans: HashMap<PlanKey, Option<Plan>>,
}

/// Key of a plan. Alignment counts: the fastest algorithms need 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PlanKey {
    /// Batch, n, m, k, and the strides of the three operands.
    sizes: [usize; 7],
    transposed: [bool; 2],
    storage: [Storage; 2],
    epilogue: lt::cublasLtEpilogue_t,
    alignment: [u32; 5],
}

/// Everything that a call needs but the addresses.
struct Plan {
    product: Descriptor,
    /// Layouts of the first operand (`B`), the second (`A`) and the result.
    layouts: [Layout; 3],
    algorithm: lt::cublasLtMatmulAlgo_t,
}

fn epilogue(fused: Fused) -> lt::cublasLtEpilogue_t {
    use lt::cublasLtEpilogue_t as Of;
    match fused {
        Fused::Nothing => Of::CUBLASLT_EPILOGUE_DEFAULT,
        Fused::Bias(_) => Of::CUBLASLT_EPILOGUE_BIAS,
        Fused::BiasRelu(_) => Of::CUBLASLT_EPILOGUE_RELU_BIAS,
        Fused::BiasReluMask(..) => Of::CUBLASLT_EPILOGUE_RELU_AUX_BIAS,
        Fused::ReluBackward(_) => Of::CUBLASLT_EPILOGUE_DRELU,
        Fused::RowSums(_) => Of::CUBLASLT_EPILOGUE_BGRADB,
    }
}

fn plan_key(p: &Product) -> PlanKey {
    let MatMul { batch, n, m, k, trans_a, trans_b, stride_a, stride_b, stride_c } = p.sizes;
    let alignment = |address: u64| 1 << address.trailing_zeros().min(8);
    // An absent vector or mask counts as aligned.
    let [vector, mask] = [p.fused.vector(), p.fused.mask()].map(|at| alignment(at.unwrap_or(0)));
    PlanKey {
        sizes: [batch, n, m, k, stride_a, stride_b, stride_c],
        transposed: [trans_a, trans_b],
        storage: [p.operands, p.result],
        epilogue: epilogue(p.fused),
        alignment: [alignment(p.b), alignment(p.a), alignment(p.c), vector, mask],
    }
}

fn data_type(storage: Storage) -> lt::cudaDataType {
    match storage {
        Storage::F32 => lt::cudaDataType_t::CUDA_R_32F,
        Storage::Bf16 => lt::cudaDataType_t::CUDA_R_16BF,
    }
}

impl PlanKey {
    /// Description, such as `bias + ReLU of [100, 256] x [256, 19], bf16 to bf16`.
    fn words(&self) -> String {
        use lt::cublasLtEpilogue_t as Of;
        let fused = match self.epilogue {
            Of::CUBLASLT_EPILOGUE_BIAS => "bias",
            Of::CUBLASLT_EPILOGUE_RELU_BIAS => "bias + ReLU",
            Of::CUBLASLT_EPILOGUE_RELU_AUX_BIAS => "bias + ReLU with mask",
            Of::CUBLASLT_EPILOGUE_DRELU => "gradient of a ReLU",
            Of::CUBLASLT_EPILOGUE_BGRADB => "gradient of a bias",
            _ => "product",
        };
        let [_, n, m, k, ..] = self.sizes;
        let [operands, result] = self.storage.map(|storage| match storage {
            Storage::F32 => "f32",
            Storage::Bf16 => "bf16",
        });
        format!("{fused} of [{n}, {k}] x [{k}, {m}], {operands} to {result}")
    }
}

impl Products {
    /// Opens the first library that starts: `library`, else the next ones of the search. A context
    /// has to be current.
    pub fn open(
        device: &str,
        mut library: &'static Library,
        search: &mut Search,
    ) -> Result<Products> {
        let handle = loop {
            let mut handle = null_mut();
            // SAFETY: a context is current; the library writes one handle.
            match done(unsafe { (library.calls.create)(&mut handle) }) {
                Ok(()) => break handle,
                Err(status) => search.pass_over(library, &format!("does not start: {status}")),
            }
            library = search.next().ok_or_else(|| search.nothing())?;
        };
        // SAFETY: a context is current; cuBLASLt writes the workspace before it reads it.
        let workspace = unsafe { driver::malloc_sync(WORKSPACE) };
        let workspace = workspace.map_err(|error| {
            // SAFETY: nothing has used the handle.
            let _ = unsafe { (library.calls.destroy)(handle) };
            KernelError::Device {
                device: device.into(),
                action: "prepare matrix products",
                what: words(error),
            }
        })?;
        let plans = HashMap::new();
        Ok(Products { device: device.into(), library, handle, workspace, plans })
    }

    /// The library, for reports.
    pub fn library(&self) -> &'static Library {
        self.library
    }

    fn failed(&self, p: &Product, status: Status) -> KernelError {
        let MatMul { batch, n, m, k, .. } = p.sizes;
        KernelError::Device {
            device: self.device.clone(),
            action: "multiply",
            what: format!("[{n}, {k}] x [{k}, {m}], {batch} times: {status}"),
        }
    }

    /// Whether the library has an algorithm for this product.
    pub fn fit(&mut self, p: &Product) -> Result<bool> {
        let key = plan_key(p);
        if !self.plans.contains_key(&key) {
            let plan = match Plan::new(self.library, self.handle, &key, p.fused) {
                Ok(plan) => Some(plan),
                Err(Status::NOT_SUPPORTED) => None,
                // The fused operation can also run by itself. So an answer that blames the
                // arguments of a fused product only means that it is not supported.
                Err(Status::INVALID_VALUE) if p.fused != Fused::Nothing => None,
                Err(status) => return Err(self.failed(p, status)),
            };
            self.plans.insert(key, plan);
        }
        Ok(matches!(self.plans.get(&key), Some(Some(_))))
    }

    /// Queues a product. Returns `false` if the library cannot do the fused operation. It may
    /// refuse at the call only: the refusal is remembered, and nothing is queued.
    pub fn run(&mut self, p: &Product, stream: sys::CUstream) -> Result<bool> {
        let fused = p.fused != Fused::Nothing;
        let status = match self.fit(p)? {
            true => self.call(p, stream),
            false => Err(Status::NOT_SUPPORTED),
        };
        match status {
            Ok(()) => Ok(true),
            Err(_) if fused => {
                self.plans.insert(plan_key(p), None);
                Ok(false)
            }
            Err(status) => Err(self.failed(p, status)),
        }
    }

    /// Calls the library for a product that has a plan.
    fn call(&self, p: &Product, stream: sys::CUstream) -> Done<()> {
        let Some(Some(plan)) = self.plans.get(&plan_key(p)) else {
            return Err(Status::NOT_SUPPORTED);
        };
        let beta: f32 = if p.write == Write::Add { 1.0 } else { 0.0 };
        let [first, second, result] = [0, 1, 2].map(|i| plan.layouts[i].handle);
        let at = |address: u64| address as *mut c_void;
        plan.product.point(p.fused)?;
        // SAFETY: the façade has checked that the operands are as long as the sizes say; the
        // scalars are read before the call returns.
        done(unsafe {
            (self.library.calls.multiply)(
                self.handle,
                plan.product.handle,
                (&raw const p.alpha).cast(),
                at(p.b),
                first,
                at(p.a),
                second,
                (&raw const beta).cast(),
                at(p.c),
                result,
                at(p.c),
                result,
                &plan.algorithm,
                at(self.workspace),
                WORKSPACE,
                stream.cast(),
            )
        })
    }

    /// Descriptions of the fused products that the library refused.
    pub fn unfused(&self) -> Vec<String> {
        let none = |(key, plan): (&PlanKey, &Option<Plan>)| plan.is_none().then(|| key.words());
        let mut all: Vec<String> = self.plans.iter().filter_map(none).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Frees everything; a context has to be current and no work under way.
    pub fn close(&mut self) {
        self.plans.clear();
        // SAFETY: nothing uses the handle or the memory any more.
        unsafe {
            let _ = (self.library.calls.destroy)(self.handle);
            let _ = driver::free_sync(self.workspace);
        }
    }
}

impl Plan {
    fn new(
        library: &'static Library,
        handle: lt::cublasLtHandle_t,
        key: &PlanKey,
        fused: Fused,
    ) -> Done<Plan> {
        let [batch, n, m, k, stride_a, stride_b, stride_c] = key.sizes;
        let [trans_a, trans_b] = key.transposed;
        let [operands, result] = key.storage.map(data_type);
        use lt::cublasLtMatmulDescAttributes_t as Of;
        let product = Descriptor::new(library)?;
        let operation = |transposed: bool| i32::from(transposed);
        product.set(Of::CUBLASLT_MATMUL_DESC_TRANSA, &operation(trans_b))?;
        product.set(Of::CUBLASLT_MATMUL_DESC_TRANSB, &operation(trans_a))?;
        if fused != Fused::Nothing {
            product.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE, &(key.epilogue as u32))?;
            if fused.vector().is_some() {
                product.set(Of::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &(result as i32))?;
            }
            if fused.mask().is_some() {
                let bits = 8 * mask_row(m) as i64;
                product.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &bits)?;
            }
            // The choice of an algorithm reads them as well.
            product.point(fused)?;
        }
        // Rows and columns as the library reads them: a row-major [r, c] is [c, r] there.
        let stored = |transposed: bool, rows: usize, columns: usize| {
            if transposed { (rows, columns) } else { (columns, rows) }
        };
        let layouts = [
            Layout::new(library, operands, stored(trans_b, k, m), batch, stride_b)?,
            Layout::new(library, operands, stored(trans_a, n, k), batch, stride_a)?,
            Layout::new(library, result, (m, n), batch, stride_c)?,
        ];
        let algorithm = choose(handle, &product, &layouts, key.alignment)?;
        Ok(Plan { product, layouts, algorithm })
    }
}

/// Description of a product for the library.
struct Descriptor {
    library: &'static Library,
    handle: lt::cublasLtMatmulDesc_t,
}

impl Descriptor {
    fn new(library: &'static Library) -> Done<Descriptor> {
        // True f32 sums: the faster TF32 would round the operands to 11 bits.
        let compute = lt::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let scale = lt::cudaDataType_t::CUDA_R_32F;
        let mut handle = null_mut();
        // SAFETY: the library writes one handle.
        done(unsafe { (library.calls.create_product)(&mut handle, compute, scale) })?;
        Ok(Descriptor { library, handle })
    }

    fn set<V: Copy>(&self, attribute: lt::cublasLtMatmulDescAttributes_t, value: &V) -> Done<()> {
        let (value, size) = (std::ptr::from_ref(value).cast(), size_of::<V>());
        // SAFETY: the descriptor is alive; the value is read before the call returns.
        done(unsafe { (self.library.calls.set_product)(self.handle, attribute, value, size) })
    }

    /// Sets the addresses of the epilogue.
    fn point(&self, fused: Fused) -> Done<()> {
        use lt::cublasLtMatmulDescAttributes_t as Of;
        if let Some(vector) = fused.vector() {
            self.set(Of::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector)?;
        }
        match fused.mask() {
            Some(mask) => self.set(Of::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &mask),
            None => Ok(()),
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created in `new`, used by nothing any more.
        let _ = unsafe { (self.library.calls.destroy_product)(self.handle) };
    }
}

/// A batch of column-major matrices without padding.
struct Layout {
    library: &'static Library,
    handle: lt::cublasLtMatrixLayout_t,
}

impl Layout {
    fn new(
        library: &'static Library,
        kind: lt::cudaDataType,
        (rows, columns): (usize, usize),
        batch: usize,
        stride: usize,
    ) -> Done<Layout> {
        use lt::cublasLtMatrixLayoutAttribute_t as Of;
        let (mut handle, create) = (null_mut(), library.calls.create_layout);
        // SAFETY: the library writes one handle.
        done(unsafe { create(&mut handle, kind, rows as u64, columns as u64, rows as i64) })?;
        let made = Layout { library, handle };
        if batch > 1 {
            made.set(Of::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &(batch as i32))?;
            made.set(Of::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &(stride as i64))?;
        }
        Ok(made)
    }

    fn set<V: Copy>(&self, attribute: lt::cublasLtMatrixLayoutAttribute_t, value: &V) -> Done<()> {
        let (value, size) = (std::ptr::from_ref(value).cast(), size_of::<V>());
        // SAFETY: the layout is alive; the value is read before the call returns.
        done(unsafe { (self.library.calls.set_layout)(self.handle, attribute, value, size) })
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created in `new`, used by nothing any more.
        let _ = unsafe { (self.library.calls.destroy_layout)(self.handle) };
    }
}

/// Criteria for the choice of an algorithm.
struct Preference {
    library: &'static Library,
    handle: lt::cublasLtMatmulPreference_t,
}

impl Preference {
    fn new(library: &'static Library) -> Done<Preference> {
        let mut handle = null_mut();
        // SAFETY: the library writes one handle.
        done(unsafe { (library.calls.create_preference)(&mut handle) })?;
        Ok(Preference { library, handle })
    }

    fn set<V: Copy>(
        &self,
        attribute: lt::cublasLtMatmulPreferenceAttributes_t,
        value: &V,
    ) -> Done<()> {
        let (value, size) = (std::ptr::from_ref(value).cast(), size_of::<V>());
        // SAFETY: the preference is alive; the value is read before the call returns.
        done(unsafe { (self.library.calls.set_preference)(self.handle, attribute, value, size) })
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created in `new`, used by nothing any more.
        let _ = unsafe { (self.library.calls.destroy_preference)(self.handle) };
    }
}

/// The algorithm that the library considers fastest.
fn choose(
    handle: lt::cublasLtHandle_t,
    product: &Descriptor,
    layouts: &[Layout; 3],
    [align_first, align_second, align_result, ..]: [u32; 5],
) -> Done<lt::cublasLtMatmulAlgo_t> {
    use lt::cublasLtMatmulPreferenceAttributes_t as Of;
    let library = product.library;
    let preference = Preference::new(library)?;
    preference.set(Of::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
    let sums = lt::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    preference.set(Of::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums)?;
    for (attribute, bytes) in [
        (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_first),
        (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_second),
        (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_result),
        (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_result),
    ] {
        preference.set(attribute, &bytes)?;
    }
    let [first, second, result] = [0, 1, 2].map(|i| layouts[i].handle);
    let (mut found, mut count) = (MaybeUninit::<HeuristicResult>::zeroed(), 0);
    // SAFETY: all objects are alive; there is room for the one answer requested.
    done(unsafe {
        (library.calls.choose)(
            handle,
            product.handle,
            first,
            second,
            result,
            result,
            preference.handle,
            1,
            found.as_mut_ptr().cast(),
            &mut count,
        )
    })?;
    // SAFETY: any bytes are a valid value, and zeros were there before.
    let found = unsafe { found.assume_init() };
    if count < 1 { Err(Status::NOT_SUPPORTED) } else { done(found.state).map(|()| found.algorithm) }
}

/// `cublasLtMatmulHeuristicResult_t`, with the status as a plain number.
#[repr(C)]
struct HeuristicResult {
    algorithm: lt::cublasLtMatmulAlgo_t,
    _workspace: usize,
    state: u32,
    _waves: f32,
    _reserved: [i32; 4],
}

const _: () =
    assert!(size_of::<HeuristicResult>() == size_of::<lt::cublasLtMatmulHeuristicResult_t>());
