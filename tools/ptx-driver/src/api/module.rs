//! Modules and functions.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

use ptx_vm::Module;

use crate::code::{Code, Done, refuse};
use crate::entry::{call_in, call_unsafe, given, store};
use crate::fatal;
use crate::state::{Driver, Function, Handle, Loaded};
use crate::work::Work;

/// Values of `CUjit_option` that a load honours.
const ERROR_LOG: u32 = 5;
const ERROR_LOG_BYTES: u32 = 6;
/// First value that is no option (CUDA 13.0).
const NO_OPTION: u32 = 35;

/// Maximum dynamic and static shared memory of a block without opt-in.
const SHARED_UNASKED: u64 = 48 << 10;

/// `cuModuleLoadData`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_char) -> u32 {
    call_unsafe("cuModuleLoadData", |driver, context| {
        let loaded = driver.load(context, image).or_else(|(code, why)| refuse(code, why))?;
        store(module, loaded)
    })
}

/// `cuModuleLoadDataEx`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut Handle,
    image: *const c_char,
    count: u32,
    options: *const u32,
    values: *mut *mut c_void,
) -> u32 {
    call_unsafe("cuModuleLoadDataEx", |driver, context| {
        // SAFETY: the caller passes `count` options and values.
        let log = unsafe { Log::asked(count, options, values)? };
        match driver.load(context, image) {
            Ok(loaded) => {
                log.write("");
                store(module, loaded)
            }
            Err((code, why)) => {
                log.write(&why);
                refuse(code, why)
            }
        }
    })
}

/// Destination of the errors of a translation.
struct Log {
    buffer: *mut u8,
    bytes: usize,
    /// Receives the number of bytes written.
    size: *mut *mut c_void,
}

impl Log {
    /// # Safety
    /// There are `count` options and values.
    unsafe fn asked(count: u32, options: *const u32, values: *mut *mut c_void) -> Done<Log> {
        let mut log = Log { buffer: std::ptr::null_mut(), bytes: 0, size: std::ptr::null_mut() };
        for i in 0..count as usize {
            given(options, "the list of options")?;
            given(values, "the list of values")?;
            // SAFETY: guaranteed by the caller.
            let (option, value) = unsafe { (options.add(i).read(), values.add(i)) };
            match option {
                // SAFETY: guaranteed by the caller; values are pointers or integers in their place.
                ERROR_LOG => log.buffer = unsafe { value.read() }.cast(),
                ERROR_LOG_BYTES => {
                    log.size = value;
                    // SAFETY: as above.
                    log.bytes = unsafe { value.read() } as usize;
                }
                NO_OPTION.. => {
                    return refuse(Code::INVALID_VALUE, format!("{option} is not an option"));
                }
                _ => {}
            }
        }
        Ok(log)
    }

    fn write(&self, text: &str) {
        let mut written = 0;
        if !self.buffer.is_null() && self.bytes > 0 {
            written = text.len().min(self.bytes - 1);
            // SAFETY: the caller of the load passes a buffer of this many bytes.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), self.buffer, written);
                self.buffer.add(written).write(0);
            }
        }
        if !self.size.is_null() {
            // SAFETY: `size` points into the list of values.
            unsafe { self.size.write(written as *mut c_void) };
        }
    }
}

impl Driver {
    /// Reads PTX text for the device of the context.
    fn load(&mut self, context: Handle, image: *const c_char) -> Result<Handle, (Code, String)> {
        if image.is_null() {
            return Err((Code::INVALID_VALUE, "the image is a null pointer".into()));
        }
        // SAFETY: the image is PTX text with a final zero byte, or begins with an ELF or fatbinary
        // header, which contains a zero byte early.
        let text = unsafe { CStr::from_ptr(image) };
        if text.to_bytes().starts_with(b"\x7fELF") || !text.to_bytes().contains(&b'.') {
            let why = "the image is not PTX; binaries of a GPU do not run here".into();
            return Err((Code::NO_BINARY_FOR_GPU, why));
        }
        let invalid = |why: String| (Code::INVALID_PTX, why);
        let text =
            text.to_str().map_err(|error| invalid(format!("the PTX is not text: {error}")))?;
        self.accepts(text)?;
        let number = self.modules.len() + 1;
        let module = Module::parse(&format!("module {number}"), text);
        let module = module.map_err(|error| invalid(error.to_string()))?;
        Ok(self.modules.add(Loaded { module: Arc::new(module), context }))
    }

    /// Checks that the device and the version of the driver accept this PTX.
    fn accepts(&self, text: &str) -> Result<(), (Code, String)> {
        let directive = |name: &str| {
            let lines = text.lines().map(str::trim_start);
            lines.filter_map(|line| line.strip_prefix(name)).map(str::trim).next()
        };
        let version = directive(".version ").and_then(|v| v.split_once('.'));
        let version = version.and_then(|(major, minor)| {
            let minor: String = minor.chars().take_while(char::is_ascii_digit).collect();
            Some(major.parse::<u32>().ok()? * 10 + minor.parse::<u32>().ok()?)
        });
        let Some(version) = version else {
            return Err((Code::INVALID_PTX, "there is no .version directive".into()));
        };
        let newest = self.settings.ptx();
        if version > newest {
            let why = format!(
                "PTX {}.{} for a driver that takes PTX up to {}.{}",
                version / 10,
                version % 10,
                newest / 10,
                newest % 10
            );
            return Err((Code::UNSUPPORTED_PTX_VERSION, why));
        }
        let target = directive(".target sm_").unwrap_or_default();
        let digits: String = target.chars().take_while(char::is_ascii_digit).collect();
        let Ok(number) = digits.parse::<u32>() else {
            return Err((Code::INVALID_PTX, "there is no .target directive of an sm".into()));
        };
        let here = self.settings.capability;
        let only = target[digits.len()..].starts_with('a');
        if number > here || only && number != here {
            let why = format!("PTX for sm_{target} on a device of sm_{here}");
            return Err((Code::NO_BINARY_FOR_GPU, why));
        }
        Ok(())
    }
}

/// `cuModuleUnload`
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> u32 {
    call_unsafe("cuModuleUnload", |driver, _| {
        let loaded = driver.modules.get(module)?.module.clone();
        let of = |work: &Work| match work {
            Work::Launch(kernel) => Arc::ptr_eq(&kernel.module, &loaded),
            _ => false,
        };
        if driver.streams.iter().any(|(_, stream)| stream.queue.iter().any(of)) {
            fatal("a module is unloaded while a kernel of it is queued");
        }
        driver.modules.remove(module)?;
        let removed: Vec<Handle> =
            driver.functions.iter().filter(|(_, f)| f.from == module).map(|(h, _)| h).collect();
        removed.into_iter().try_for_each(|function| driver.functions.remove(function).map(drop))
    })
}

/// Reads a string of the caller.
fn name_of(name: *const c_char) -> Done<String> {
    given(name, "the name")?;
    // SAFETY: the caller passes a string with a final zero byte.
    Ok(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

/// `cuModuleGetFunction`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut Handle,
    module: Handle,
    name: *const c_char,
) -> u32 {
    call_in("cuModuleGetFunction", |driver, _| {
        let name = name_of(name)?;
        let from = driver.modules.get(module)?.module.clone();
        let Some(index) = from.kernels().iter().position(|kernel| kernel.name == name) else {
            return refuse(Code::NOT_FOUND, format!("the module has no kernel `{name}`"));
        };
        let same = |(_, f): &(Handle, &Function)| f.from == module && f.index == index;
        let known = driver.functions.iter().find(same).map(|(handle, _)| handle);
        if let Some(known) = known {
            return store(function, known);
        }
        let dynamic_most = SHARED_UNASKED.saturating_sub(from.kernels()[index].static_shared);
        let new = Function { from: module, module: from, index, dynamic_most };
        let new = driver.functions.add(new);
        store(function, new)
    })
}

/// `cuModuleGetGlobal_v2`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    _address: *mut u64,
    _bytes: *mut usize,
    module: Handle,
    name: *const c_char,
) -> u32 {
    call_in("cuModuleGetGlobal_v2", |driver, _| {
        let name = name_of(name)?;
        driver.modules.get(module)?;
        refuse(Code::NOT_SUPPORTED, format!("`{name}`: variables of modules are not modelled"))
    })
}

/// `cuFuncSetAttribute`
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, attribute: u32, value: i32) -> u32 {
    call_in("cuFuncSetAttribute", |driver, _| {
        let most = driver.settings.shared_most();
        let function = driver.functions.get(function)?;
        let kernel = &function.module.kernels()[function.index];
        match attribute {
            8 => {
                let fixed = kernel.static_shared;
                match u64::try_from(value) {
                    Ok(value) if value + fixed <= most => function.dynamic_most = value,
                    _ => {
                        let why = format!(
                            "{value} bytes of dynamic and {fixed} of static shared memory; a \
                             block has {most} on this device"
                        );
                        return refuse(Code::INVALID_VALUE, why);
                    }
                }
                Ok(())
            }
            // The preferred share of shared memory: -1 or percent.
            9 if (-1..=100).contains(&value) => Ok(()),
            _ => refuse(Code::INVALID_VALUE, format!("attribute {attribute} set to {value}")),
        }
    })
}

/// `cuFuncGetAttribute`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut i32,
    attribute: u32,
    function: Handle,
) -> u32 {
    call_in("cuFuncGetAttribute", |driver, _| {
        let capability = driver.settings.capability as i32;
        let function = driver.functions.get(function)?;
        let kernel = &function.module.kernels()[function.index];
        let found = match attribute {
            0 => kernel.max_threads.unwrap_or(1024).min(1024) as i32,
            1 => kernel.static_shared as i32,
            3 => kernel.local as i32,
            6 => capability,
            8 => function.dynamic_most as i32,
            // Constant memory, registers and the version of the PTX depend on the translator.
            _ => {
                let why = format!("attribute {attribute} of a function is not modelled");
                return refuse(Code::INVALID_VALUE, why);
            }
        };
        store(value, found)
    })
}
