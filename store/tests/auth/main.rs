//! Authentication and authorization, through the API of embedded servers: who may call what, and what becomes of
//! tokens.

#![expect(
    clippy::disallowed_methods,
    reason = "a test picks its ports itself and waits for servers that start and stop by blocking"
)]

mod advisories;
mod certificate;
mod peers;
mod support;
mod table;
mod tokens;
