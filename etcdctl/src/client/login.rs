//! Who the calls of a client are made for: a user's name and password, and the token a member gave for them.
//! Clients made from one another share it, so that one login serves all endpoints: every member knows every token.

use std::cell::RefCell;

use proto::etcdserverpb::AuthenticateRequest;
use proto::etcdserverpb::auth_client::AuthClient;
use tokio::time::timeout;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

use super::{Client, Error};

#[derive(Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

/// Without credentials every call is made for nobody.
#[derive(Default)]
pub(super) struct Login {
    credentials: Option<Credentials>,
    token: RefCell<Option<MetadataValue<Ascii>>>,
}

/// What members say of a token that is missing, forgotten, or older than the last change of users and roles.
const REFUSALS: [&str; 3] = [
    "etcdserver: user name is empty",
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
];

impl Login {
    /// A name without a password, or the reverse, is nobody, as in etcd's client.
    pub fn new(credentials: Option<Credentials>) -> Self {
        let whole = |given: &Credentials| !given.user.is_empty() && !given.password.is_empty();
        Self { credentials: credentials.filter(whole), token: RefCell::default() }
    }

    /// Whether a new token may make the call succeed.
    pub fn is_refused(&self, error: &Error) -> bool {
        self.credentials.is_some() && REFUSALS.iter().any(|refusal| error.is(refusal))
    }

    pub fn stamp<T>(&self, request: &mut Request<T>) {
        if let Some(token) = self.token.borrow().clone() {
            request.metadata_mut().insert("token", token);
        }
    }
}

impl Client {
    /// Gets a token if there are credentials. Members without authentication give none and ask for none.
    pub async fn log_in(&self) -> Result<(), Error> {
        let limit = self.options.dial_timeout;
        if limit.is_zero() {
            return self.renew_token().await;
        }
        let result = timeout(limit, self.renew_token()).await.unwrap_or(Err(Error::DeadlineExceeded));
        self.explained(result)
    }

    /// The same without a limit of time of its own.
    pub(super) async fn renew_token(&self) -> Result<(), Error> {
        let Some(Credentials { user, password }) = self.login.credentials.clone() else { return Ok(()) };
        let request = AuthenticateRequest { name: user, password };
        let (channel, endpoint) = self.connections.pick().await?;
        let token = match AuthClient::new(channel).authenticate(super::versioned(request)).await {
            Ok(response) => {
                let token = response.into_inner().token;
                let token =
                    token.parse().map_err(|_| Error::Text("the server's token is unreadable".into()))?;
                Some(token)
            }
            Err(status) => {
                self.connections.note_broken(endpoint, &status);
                let error = Error::from(status);
                if !error.is("etcdserver: authentication is not enabled") {
                    if error.is_passing() {
                        self.connections.give_up_on(endpoint);
                    }
                    return Err(error);
                }
                None
            }
        };
        *self.login.token.borrow_mut() = token;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn login(user: &str, password: &str) -> Login {
        Login::new(Some(Credentials { user: user.into(), password: password.into() }))
    }

    #[test]
    fn only_whole_credentials_are_worth_another_login() {
        let refused = Error::Status(Code::Unauthenticated, "etcdserver: invalid auth token".into());
        assert!(login("root", "x").is_refused(&refused));
        assert!(!login("root", "").is_refused(&refused));
        assert!(!login("", "x").is_refused(&refused));
        let denied = Error::Status(Code::PermissionDenied, "etcdserver: permission denied".into());
        assert!(!login("root", "x").is_refused(&denied));
    }

    #[test]
    fn a_token_goes_into_the_metadata() {
        let login = login("root", "x");
        let mut request = Request::new(());
        login.stamp(&mut request);
        assert!(request.metadata().is_empty());
        *login.token.borrow_mut() = Some("abc.7".parse().unwrap());
        login.stamp(&mut request);
        assert_eq!(request.metadata().get("token").unwrap(), "abc.7");
    }
}
