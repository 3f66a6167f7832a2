//! Initialisation, errors, version and devices.

use std::ffi::{c_char, c_void};

use crate::code::{Code, Done, Refused, refuse};
use crate::entry::{always, call, given, store};
use crate::settings::Settings;
use crate::state::Driver;

/// `cuInit`
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: u32) -> u32 {
    always("cuInit", |driver| {
        if flags != 0 {
            return refuse(Code::INVALID_VALUE, format!("flags are {flags}, they have to be 0"));
        }
        if driver.devices.is_empty() {
            return Err(Refused::plain(Code::NO_DEVICE));
        }
        driver.initialised = true;
        Ok(())
    })
}

/// `cuDriverGetVersion`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut i32) -> u32 {
    always("cuDriverGetVersion", |driver| store(version, driver.settings.version))
}

/// `cuGetErrorName`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: u32, text: *mut *const c_char) -> u32 {
    let name = Code(code).described().map(|(name, _)| name.as_ptr());
    described("cuGetErrorName", name, text)
}

/// `cuGetErrorString`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: u32, text: *mut *const c_char) -> u32 {
    let words = Code(code).described().map(|(_, words)| words.as_ptr());
    described("cuGetErrorString", words, text)
}

fn described(name: &str, found: Option<*const c_char>, text: *mut *const c_char) -> u32 {
    always(name, |_| {
        store(text, found.unwrap_or(std::ptr::null()))?;
        match found {
            Some(_) => Ok(()),
            None => Err(Refused::plain(Code::INVALID_VALUE)),
        }
    })
}

/// Checks that there is a device of this number.
pub(super) fn known(driver: &Driver, device: i32) -> Done<usize> {
    let count = driver.devices.len();
    match usize::try_from(device) {
        Ok(device) if device < count => Ok(device),
        _ => refuse(Code::INVALID_DEVICE, format!("device {device} of {count}")),
    }
}

/// `cuDeviceGetCount`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut i32) -> u32 {
    call("cuDeviceGetCount", |driver| store(count, driver.devices.len() as i32))
}

/// `cuDeviceGet`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut i32, ordinal: i32) -> u32 {
    call("cuDeviceGet", |driver| {
        let found = known(driver, ordinal)?;
        store(device, found as i32)
    })
}

/// `cuDeviceGetName`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: i32, device: i32) -> u32 {
    call("cuDeviceGetName", |driver| {
        known(driver, device)?;
        given(name, "the place for the name")?;
        let Some(room) = usize::try_from(len).ok().and_then(|len| len.checked_sub(1)) else {
            return refuse(Code::INVALID_VALUE, format!("a name of {len} bytes"));
        };
        let text = b"ptx-vm, not a GPU";
        let text = &text[..text.len().min(room)];
        // SAFETY: the caller passes memory for `len` bytes; text and final zero are no longer.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast::<u8>(), text.len());
            name.add(text.len()).write(0);
        }
        Ok(())
    })
}

/// `cuDeviceTotalMem_v2`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> u32 {
    call("cuDeviceTotalMem_v2", |driver| {
        known(driver, device)?;
        store(bytes, driver.settings.memory as usize)
    })
}

/// `cuDeviceGetUuid_v2`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut c_void, device: i32) -> u32 {
    call("cuDeviceGetUuid_v2", |driver| {
        let number = known(driver, device)? as u8;
        let mut bytes = *b"ptx-vm device  0";
        bytes[15] = b'0'.wrapping_add(number);
        store(uuid.cast::<[u8; 16]>(), bytes)
    })
}

/// `cuDeviceGetPCIBusId`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(text: *mut c_char, len: i32, device: i32) -> u32 {
    call("cuDeviceGetPCIBusId", |driver| {
        let number = known(driver, device)?;
        given(text, "the place for the identifier")?;
        let id = format!("0000:{number:02X}:00.0\0");
        if usize::try_from(len).unwrap_or(0) < id.len() {
            return refuse(Code::INVALID_VALUE, format!("an identifier of {len} bytes"));
        }
        // SAFETY: the caller passes memory for `len` bytes, and the identifier is no longer.
        unsafe { std::ptr::copy_nonoverlapping(id.as_ptr(), text.cast::<u8>(), id.len()) };
        Ok(())
    })
}

/// `cuDeviceGetAttribute`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut i32, attribute: u32, device: i32) -> u32 {
    call("cuDeviceGetAttribute", |driver| {
        known(driver, device)?;
        match of_device(attribute, &driver.settings) {
            Some(found) => store(value, found),
            None => refuse(Code::INVALID_VALUE, format!("attribute {attribute} is not modelled")),
        }
    })
}

/// Returns a device attribute by its number in `CUdevice_attribute`. Limits are those of the
/// compute capability. Clocks, widths and the number of multiprocessors are small round numbers of
/// no real GPU.
fn of_device(attribute: u32, settings: &Settings) -> Option<i32> {
    let capability = settings.capability as i32;
    let shared_most = settings.shared_most() as i32;
    Some(match attribute {
        // Threads of a block, and its sides.
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        // Shared memory of a block without opt-in.
        8 => 48 << 10,
        9 => 64 << 10,
        // Lanes of a warp.
        10 => 32,
        11 => i32::MAX,
        // Registers of a block and of a multiprocessor.
        12 | 82 => 65536,
        // Clocks of the processor and of the memory in kHz.
        13 | 36 => 1_000_000,
        14 => 512,
        // Copies concurrent with kernels; multiprocessors.
        15 => 1,
        16 => 8,
        // No time limit, not integrated, cannot map host memory, default mode.
        17..=20 => 0,
        // Concurrent kernels, unified addresses, one copy engine.
        31 | 40 | 41 => 1,
        // No ECC, PCI bus, device and domain.
        32..=35 | 50 => 0,
        // Width of the memory bus in bits, second-level cache.
        37 => 64,
        38 => 4 << 20,
        // Threads of a multiprocessor.
        39 => {
            if matches!(capability, 86 | 89) {
                1536
            } else {
                2048
            }
        }
        75 => capability / 10,
        76 => capability % 10,
        // No priorities, managed memory, cooperative launch, memory pools.
        78 | 83 | 95 | 115 => 0,
        81 => shared_most + (1 << 10),
        97 => shared_most,
        // Blocks of a multiprocessor, shared memory that the system reserves of each.
        106 => {
            if capability == 86 {
                16
            } else if capability == 89 {
                24
            } else {
                32
            }
        }
        111 => 1 << 10,
        _ => return None,
    })
}
