//! The C library's own functions, behind those of the same name here.
//!
//! Each is looked up at its first call and kept. The look-up of a name that exists allocates nothing.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A name of the C library.
pub struct Original {
    name: &'static CStr,
    /// For names of which there are several: the version that programs are linked with.
    version: Option<&'static CStr>,
    address: AtomicPtr<libc::c_void>,
}

impl Original {
    pub const fn new(name: &'static CStr) -> Original {
        Original { name, version: None, address: AtomicPtr::new(std::ptr::null_mut()) }
    }

    pub const fn versioned(name: &'static CStr, version: &'static CStr) -> Original {
        Original { name, version: Some(version), address: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Null only where the C library has no such function.
    pub fn address(&self) -> *mut libc::c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        let mut found = std::ptr::null_mut();
        // SAFETY: terminated strings.
        unsafe {
            if let Some(version) = self.version {
                found = libc::dlvsym(libc::RTLD_NEXT, self.name.as_ptr(), version.as_ptr());
            }
            if found.is_null() {
                found = libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr());
            }
        }
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// Calls the original of a name: `original!(c"fsync" as fn(c_int) -> c_int, file)`; `@` gives a version. A missing one
/// ends the process, as an unresolved symbol would.
macro_rules! original {
    ($name:literal $(@ $version:literal)? as fn($($kind:ty),*) -> $result:ty, $($argument:expr),*) => {{
        static ORIGINAL: $crate::original::Original = $crate::original::original!(@new $name $(, $version)?);
        let address = ORIGINAL.address();
        if address.is_null() {
            // SAFETY: always allowed.
            unsafe { libc::abort() }
        }
        // SAFETY: the C library's function of this name has this type.
        unsafe {
            let function: unsafe extern "C" fn($($kind),*) -> $result = std::mem::transmute(address);
            function($($argument),*)
        }
    }};
    (@new $name:literal) => { $crate::original::Original::new($name) };
    (@new $name:literal, $version:literal) => { $crate::original::Original::versioned($name, $version) };
}
pub(crate) use original;
