//! Discovery settings: where a new member learns who founds its cluster, instead of from `--initial-cluster`.
//!
//! Owns which combinations are refused. The looking itself is the module `server::discovery`. Follows etcd's
//! `server/embed/config.go` and `client/v3/config.go`.

use std::time::Duration;

use super::{ClusterState, Config, ConfigError, refuse};

/// DNS (`srv`), or a discovery service (`endpoints` and `token`), which is an etcd.
#[derive(Debug, Clone, PartialEq)]
pub struct Discovery {
    /// Domain whose SRV records name the members.
    pub srv: String,
    /// Appended to the service that is asked for, after a dash.
    pub srv_name: String,
    /// Of the cluster, at the service; also the cluster's token.
    pub token: String,
    pub endpoints: Vec<String>,
    pub dial_timeout: Duration,
    pub request_timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    /// Endpoints without a scheme are meant without TLS.
    pub insecure_transport: bool,
    pub insecure_skip_tls_verify: bool,
    pub cert_file: String,
    pub key_file: String,
    pub trusted_ca_file: String,
    /// `name`, or `name:password`.
    pub user: String,
    pub password: String,
}

impl Default for Discovery {
    fn default() -> Discovery {
        Discovery {
            srv: String::new(),
            srv_name: String::new(),
            token: String::new(),
            endpoints: Vec::new(),
            dial_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            keepalive_time: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(6),
            insecure_transport: true,
            insecure_skip_tls_verify: false,
            cert_file: String::new(),
            key_file: String::new(),
            trusted_ca_file: String::new(),
            user: String::new(),
            password: String::new(),
        }
    }
}

impl Discovery {
    pub fn is_asked_for(&self) -> bool {
        !self.srv.is_empty() || !self.endpoints.is_empty()
    }

    /// Name and password, if both are there.
    pub fn login(&self) -> Option<(&str, &str)> {
        let (name, password) = match self.user.split_once(':') {
            Some(both) if self.password.is_empty() => both,
            _ => (self.user.as_str(), self.password.as_str()),
        };
        (!name.is_empty() && !password.is_empty()).then_some((name, password))
    }
}

impl Config {
    pub(super) fn check_discovery(&self) -> Result<(), ConfigError> {
        let Discovery { srv, token, endpoints, cert_file, key_file, .. } = &self.discovery;
        let sources = [!self.initial_cluster.is_empty(), !endpoints.is_empty(), !srv.is_empty()];
        if sources.into_iter().filter(|is_set| *is_set).count() > 1 {
            return refuse(
                "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                 \"discovery-endpoints\" or \"discovery-srv\"",
            );
        }
        if token.is_empty() != endpoints.is_empty() {
            return refuse("both --discovery-token and --discovery-endpoints must be set");
        }
        if !endpoints.is_empty() && self.initial_cluster_state == ClusterState::Existing {
            return refuse(
                "--discovery-endpoints founds new clusters; to join a running one, name its members in --initial-cluster",
            );
        }
        if cert_file.is_empty() != key_file.is_empty() {
            return refuse("--discovery-cert and --discovery-key must both be set, or neither");
        }
        Ok(())
    }
}
