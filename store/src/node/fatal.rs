//! The end of a member that must not go on: its log or its backend failed.
//!
//! Set once, by whichever thread meets the failure. Nothing is acknowledged afterwards; everybody who waits is told
//! that the server has stopped.

use std::sync::OnceLock;

use tokio::sync::watch;

pub struct Fatal {
    reason: OnceLock<String>,
    changed: watch::Sender<bool>,
}

impl Default for Fatal {
    fn default() -> Fatal {
        Fatal { reason: OnceLock::new(), changed: watch::channel(false).0 }
    }
}

impl Fatal {
    pub fn set(&self, reason: String) {
        tracing::error!(reason, "the member stops: its storage failed");
        let _ = self.reason.set(reason);
        self.changed.send_replace(true);
    }

    pub fn is_set(&self) -> bool {
        self.reason.get().is_some()
    }

    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    pub async fn happened(&self) {
        let mut changed = self.changed.subscribe();
        // The sender lives as long as `self`.
        let _ = changed.wait_for(|set| *set).await;
    }
}
