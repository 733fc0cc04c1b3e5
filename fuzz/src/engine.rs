//! libFuzzer in this process: the one place that speaks to it, and the only unsafe code here. Started by `supervisor`.

use std::{
    ffi::{CString, c_char, c_int},
    process::ExitCode,
    sync::OnceLock,
};

use fuzz::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

unsafe extern "C" {
    // libFuzzer's own `main`, with the callback as an argument.
    fn LLVMFuzzerRunDriver(
        argc: *mut c_int,
        argv: *mut *mut *mut c_char,
        callback: extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

extern "C" fn one_input(data: *const u8, len: usize) -> c_int {
    let input = match len {
        0 => &[],
        // SAFETY: libFuzzer gives a buffer of that length, which nobody changes during the call.
        _ => unsafe { std::slice::from_raw_parts(data, len) },
    };
    if let Some(target) = TARGET.get() {
        (target.run)(input);
    }
    0
}

/// What `libfuzzer-sys` would call; here the callback is handed over.
#[unsafe(no_mangle)]
extern "C" fn rust_fuzzer_test_input(data: *const u8, len: usize) -> c_int {
    one_input(data, len)
}

/// Runs libFuzzer with these words behind the program's name. A panic ends the process as a crash does.
pub fn run(target: &'static Target, words: &[String]) -> ExitCode {
    let _ = TARGET.set(target);
    // SAFETY: takes numbers only. An engine does not outlive whoever started it.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        std::process::abort();
    }));
    // Linked for what it brings along; nothing of it is called.
    let _ = libfuzzer_sys::initialize as *const ();
    let words = std::iter::once("fuzz").chain(words.iter().map(String::as_str));
    let words: Vec<CString> = words.filter_map(|word| CString::new(word).ok()).collect();
    let mut pointers: Vec<*mut c_char> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    let mut argc = pointers.len() as c_int;
    pointers.push(std::ptr::null_mut());
    let mut argv = pointers.as_mut_ptr();
    // SAFETY: `argc` strings, ended by a null pointer; they and the array outlive the call.
    let code = unsafe { LLVMFuzzerRunDriver(&mut argc, &mut argv, one_input) };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
