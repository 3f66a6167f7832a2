//! The exported functions of cuBLASLt.

use std::ffi::c_void;

use super::attributes::Value;
use super::check::{Epilogue, aligned, check};
use super::heuristic::{HeuristicResult, Opaque};
use super::{
    Answer, Description, F32, Layout, Preference, Product, Status, frame, handle, invalid,
    of_driver, width,
};
use crate::entry::{always, store};
use crate::settings::Epilogues;
use crate::state::{Driver, Handle};
use crate::work::Work;

/// `CUBLASLT_EPILOGUE_DEFAULT`: only the product.
const PLAIN: u32 = 1;

/// `cublasLtGetVersion`
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    let mut version = 0;
    always("cublasLtGetVersion", |driver| {
        version = driver.settings.lt_version;
        Ok(())
    });
    version
}

/// `cublasLtCreate`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(new: *mut Handle) -> u32 {
    frame("cublasLtCreate", |driver| {
        if driver.settings.lt_broken {
            return Err((Status::NOT_INITIALIZED, String::new()));
        }
        let made = driver.lt.handles.add(());
        of_driver(store(new, made))
    })
}

/// `cublasLtDestroy`
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtDestroy(old: Handle) -> u32 {
    frame("cublasLtDestroy", |driver| {
        handle(driver, old)?;
        of_driver(driver.lt.handles.remove(old))
    })
}

/// `cublasLtMatmulDescCreate`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(
    new: *mut Handle,
    compute: u32,
    scale: u32,
) -> u32 {
    frame("cublasLtMatmulDescCreate", |driver| {
        let made = driver.lt.products.add(Description::new(compute, scale));
        of_driver(store(new, made))
    })
}

/// `cublasLtMatmulDescDestroy`
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulDescDestroy(old: Handle) -> u32 {
    frame("cublasLtMatmulDescDestroy", |driver| of_driver(driver.lt.products.remove(old)).map(drop))
}

/// Returns the bytes of an attribute.
///
/// # Safety
/// `value` is null or points to `bytes` bytes.
unsafe fn value<'a>(value: *const c_void, bytes: usize) -> Answer<Value<'a>> {
    if value.is_null() {
        return invalid("the value is a null pointer");
    }
    // SAFETY: guaranteed by the caller.
    Ok(Value(unsafe { std::slice::from_raw_parts(value.cast(), bytes) }))
}

/// `cublasLtMatmulDescSetAttribute`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    of: Handle,
    attribute: u32,
    buffer: *const c_void,
    bytes: usize,
) -> u32 {
    frame("cublasLtMatmulDescSetAttribute", |driver| {
        // SAFETY: guaranteed by the caller.
        let value = unsafe { value(buffer, bytes)? };
        of_driver(driver.lt.products.get(of))?.set(attribute, &value)
    })
}

/// `cublasLtMatrixLayoutCreate`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    new: *mut Handle,
    kind: u32,
    rows: u64,
    columns: u64,
    ld: i64,
) -> u32 {
    frame("cublasLtMatrixLayoutCreate", |driver| {
        let layout = Layout { kind, order: 0, rows, columns, ld, batch: 1, stride: 0 };
        let made = driver.lt.layouts.add(layout);
        of_driver(store(new, made))
    })
}

/// `cublasLtMatrixLayoutDestroy`
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatrixLayoutDestroy(old: Handle) -> u32 {
    frame("cublasLtMatrixLayoutDestroy", |driver| {
        of_driver(driver.lt.layouts.remove(old)).map(drop)
    })
}

/// `cublasLtMatrixLayoutSetAttribute`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutSetAttribute(
    of: Handle,
    attribute: u32,
    buffer: *const c_void,
    bytes: usize,
) -> u32 {
    frame("cublasLtMatrixLayoutSetAttribute", |driver| {
        // SAFETY: guaranteed by the caller.
        let value = unsafe { value(buffer, bytes)? };
        of_driver(driver.lt.layouts.get(of))?.set(attribute, &value)
    })
}

/// `cublasLtMatmulPreferenceCreate`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(new: *mut Handle) -> u32 {
    frame("cublasLtMatmulPreferenceCreate", |driver| {
        let made = driver.lt.preferences.add(Preference::DEFAULT);
        of_driver(store(new, made))
    })
}

/// `cublasLtMatmulPreferenceDestroy`
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceDestroy(old: Handle) -> u32 {
    frame("cublasLtMatmulPreferenceDestroy", |driver| {
        of_driver(driver.lt.preferences.remove(old)).map(drop)
    })
}

/// `cublasLtMatmulPreferenceSetAttribute`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    of: Handle,
    attribute: u32,
    buffer: *const c_void,
    bytes: usize,
) -> u32 {
    frame("cublasLtMatmulPreferenceSetAttribute", |driver| {
        // SAFETY: guaranteed by the caller.
        let value = unsafe { value(buffer, bytes)? };
        of_driver(driver.lt.preferences.get(of))?.set(attribute, &value)
    })
}

/// Returns copies of the four layouts.
fn layouts(driver: &mut Driver, handles: [Handle; 4]) -> Answer<[Layout; 4]> {
    let mut found =
        [Layout { kind: F32, order: 0, rows: 0, columns: 0, ld: 0, batch: 1, stride: 0 }; 4];
    for (layout, handle) in found.iter_mut().zip(handles) {
        *layout = *of_driver(driver.lt.layouts.get(handle))?;
    }
    Ok(found)
}

/// `cublasLtMatmulAlgoGetHeuristic`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    lt: Handle,
    product: Handle,
    a: Handle,
    b: Handle,
    c: Handle,
    d: Handle,
    preference: Handle,
    requested: i32,
    results: *mut HeuristicResult,
    count: *mut i32,
) -> u32 {
    frame("cublasLtMatmulAlgoGetHeuristic", |driver| {
        handle(driver, lt)?;
        if requested < 1 {
            return invalid(format!("{requested} algorithms are asked for"));
        }
        of_driver(store(count, 0))?;
        let description = *of_driver(driver.lt.products.get(product))?;
        let layouts = layouts(driver, [a, b, c, d])?;
        let preference = *of_driver(driver.lt.preferences.get(preference))?;
        if description.epilogue != PLAIN && driver.settings.epilogues == Epilogues::RefusedAtChoice
        {
            return Err((Status::NOT_SUPPORTED, String::new()));
        }
        let found = driver.lt.choose(description, layouts, &preference)?;
        of_driver(store(results, found))?;
        of_driver(store(count, 1))
    })
}

/// `cublasLtMatmul`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmul(
    lt: Handle,
    product: Handle,
    alpha: *const f32,
    a: u64,
    a_layout: Handle,
    b: u64,
    b_layout: Handle,
    beta: *const f32,
    c: u64,
    c_layout: Handle,
    d: u64,
    d_layout: Handle,
    algorithm: *const Opaque,
    workspace: u64,
    workspace_bytes: usize,
    stream: Handle,
) -> u32 {
    frame("cublasLtMatmul", |driver| {
        handle(driver, lt)?;
        let context = of_driver(driver.current())?;
        of_driver(driver.healthy(context))?;
        let description = *of_driver(driver.lt.products.get(product))?;
        let layouts = layouts(driver, [a_layout, b_layout, c_layout, d_layout])?;
        let sizes = check(&description, &layouts)?;
        if alpha.is_null() || beta.is_null() {
            return invalid("alpha or beta is a null pointer");
        }
        // SAFETY: the caller passes two scalars of the scale type, which was checked to be f32.
        let (alpha, beta) = unsafe { (alpha.read_unaligned(), beta.read_unaligned()) };
        let workspace = (workspace, workspace_bytes as u64);
        let epilogue = Epilogue::of(description.epilogue)?;
        let addresses = [a, b, if beta == 0.0 && c == 0 { d } else { c }, d];
        let mut product =
            Product { sizes, description, epilogue, layouts, addresses, alpha, beta, workspace };
        // SAFETY: the caller passes an algorithm or null.
        let algorithm = unsafe { algorithm.as_ref() };
        product.fits(driver, algorithm)?;
        if description.epilogue != PLAIN && driver.settings.epilogues == Epilogues::RefusedAtCall {
            return Err((Status::NOT_SUPPORTED, String::new()));
        }
        let stream = of_driver(driver.stream(context, stream))?;
        of_driver(driver.enqueue(stream, Work::Product(product.into())))?;
        if driver.settings.blocking && of_driver(driver.streams.get(stream))?.capture.is_none() {
            of_driver(driver.flush(stream))?;
            of_driver(driver.healthy(context))?;
        }
        Ok(())
    })
}

impl Product {
    /// Checks algorithm, alignment and memory; limits the workspace to what the algorithm uses.
    fn fits(&mut self, driver: &mut Driver, algorithm: Option<&Opaque>) -> Answer {
        let implicit;
        let chosen = match algorithm {
            Some(algorithm) => driver.lt.chosen(algorithm)?,
            None => {
                let default = &Preference::DEFAULT;
                implicit = driver.lt.choose(self.description, self.layouts, default)?;
                driver.lt.chosen(implicit.algorithm())?
            }
        }
        .clone();
        if !chosen.is_for(&self.description, &self.layouts) {
            return invalid("the algorithm was chosen for other descriptors");
        }
        let (start, bytes) = self.workspace;
        if chosen.workspace > bytes {
            let needed = chosen.workspace;
            return invalid(format!("a workspace of {bytes} bytes, the algorithm needs {needed}"));
        }
        if !start.is_multiple_of(16) {
            return invalid(format!("the workspace is at {start:#x}, not at a multiple of 16"));
        }
        self.workspace.1 = chosen.workspace;
        let mut areas = vec![(start, chosen.workspace, "the workspace")];
        for (i, name) in ["A", "B", "C", "D"].into_iter().enumerate() {
            let layout = &self.layouts[i];
            aligned(self.addresses[i], u64::from(chosen.alignment[i]), layout.kind, name)?;
            let apart = layout.stride.unsigned_abs() * (layout.batch as u64 - 1);
            areas.push((
                self.addresses[i],
                (apart + layout.span() as u64) * width(layout.kind),
                name,
            ));
        }
        self.epilogue_areas(&chosen.epilogue_alignment, &mut areas)?;
        for &(address, bytes, name) in &areas {
            if bytes > 0 {
                of_driver(driver.holds(address, bytes, name))?;
            }
        }
        self.apart(&areas)
    }

    /// Returns the memory that an epilogue reads or writes besides the matrices.
    fn epilogue_areas(
        &self,
        alignment: &[u64; 2],
        areas: &mut Vec<(u64, u64, &'static str)>,
    ) -> Answer {
        let (description, d) = (&self.description, &self.layouts[3]);
        let others = d.batch as u64 - 1;
        if self.epilogue.vector() {
            if description.bias == 0 {
                return invalid("the epilogue needs BIAS_POINTER, which is null");
            }
            aligned(description.bias, alignment[0], d.kind, "the bias")?;
            let long = if self.epilogue.gradient_b { d.columns } else { d.rows };
            let count = others * description.bias_stride as u64 + long;
            areas.push((description.bias, count * width(d.kind), "the bias"));
        }
        if self.epilogue.matrix() {
            if description.aux == 0 {
                return invalid("the epilogue needs EPILOGUE_AUX_POINTER, which is null");
            }
            aligned(description.aux, alignment[1], d.kind, "the auxiliary matrix")?;
            let one = description.aux_ld as u64 * (d.columns - 1) + d.rows;
            let count = others * description.aux_stride as u64 + one;
            let bytes = self.epilogue.aux_bytes(count, d.kind);
            areas.push((description.aux, bytes, "the auxiliary matrix"));
        }
        Ok(())
    }

    /// Checks that no output overlaps another operand. `C` may overlap `D` if it is `D` itself or
    /// beta is 0.
    fn apart(&self, areas: &[(u64, u64, &'static str)]) -> Answer {
        let [_, _, c, d] = self.addresses;
        let [_, _, c_layout, d_layout] = &self.layouts;
        let in_place = c == d && c_layout == d_layout;
        let written = |name: &str| {
            matches!(name, "the workspace" | "D")
                || name == "the bias" && !self.epilogue.bias
                || name == "the auxiliary matrix" && self.epilogue.aux_out
        };
        for (i, &(start, bytes, name)) in areas.iter().enumerate() {
            for &(other, long, second) in &areas[i + 1..] {
                let unread = second == "D" && name == "C" && (in_place || self.beta == 0.0);
                let overlap = start < other + long && other < start + bytes;
                if overlap && !unread && (written(name) || written(second)) {
                    return invalid(format!("{name} and {second} overlap"));
                }
            }
        }
        Ok(())
    }
}

/// `cublasLtGetStatusName`
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetStatusName(status: u32) -> *const std::ffi::c_char {
    match Status(status) {
        Status::SUCCESS => c"CUBLAS_STATUS_SUCCESS",
        Status::NOT_INITIALIZED => c"CUBLAS_STATUS_NOT_INITIALIZED",
        Status::INVALID_VALUE => c"CUBLAS_STATUS_INVALID_VALUE",
        Status::EXECUTION_FAILED => c"CUBLAS_STATUS_EXECUTION_FAILED",
        Status::NOT_SUPPORTED => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"CUBLAS_STATUS_UNKNOWN",
    }
    .as_ptr()
}
