//! What `--auth-token` asks for, with its key files read.

#![expect(clippy::disallowed_methods, reason = "key files are read once, before there is a member")]

use ring::rand::SystemRandom;

use super::StartError;
use crate::{
    auth::jwt::{Jwt, Setting},
    config::Config,
    node::logins::Provider,
};

pub fn provider(config: &Config) -> Result<Provider, StartError> {
    let options = match Setting::parse(&config.auth_token).map_err(StartError)? {
        Setting::Simple => return Ok(Provider::Simple),
        Setting::Off => return Ok(Provider::Off),
        Setting::Jwt(options) => options,
    };
    let read = |option: &str, path: &str| match path {
        "" => Ok(Vec::new()),
        path => std::fs::read(path)
            .map_err(|error| StartError(format!("auth: --auth-token: {option}={path}: {error}"))),
    };
    let public = read("pub-key", &options.public_key)?;
    let private = read("priv-key", &options.private_key)?;
    let jwt = Jwt::new(&options, &public, &private, &SystemRandom::new()).map_err(StartError)?;
    Ok(Provider::Jwt(jwt))
}
