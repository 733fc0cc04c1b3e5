//! The end of a member that must not go on: its log or its backend failed, or it is no member any more.
//!
//! Set once, by whichever thread meets the reason. Nothing is acknowledged afterwards; everybody who waits is told
//! that the server has stopped.

use std::sync::OnceLock;

use tokio::sync::watch;

pub struct Fatal {
    reason: OnceLock<End>,
    changed: watch::Sender<bool>,
}

/// Why a member ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Failed(String),
    /// From the cluster, for ever.
    Removed,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Failed(reason) => f.write_str(reason),
            End::Removed => f.write_str("the member has been permanently removed from the cluster"),
        }
    }
}

impl Default for Fatal {
    fn default() -> Fatal {
        Fatal { reason: OnceLock::new(), changed: watch::channel(false).0 }
    }
}

impl Fatal {
    pub fn set(&self, reason: String) {
        tracing::error!(reason, "the member stops: its storage failed");
        self.end(End::Failed(reason));
    }

    pub fn set_removed(&self) {
        tracing::warn!(
            "the member has been permanently removed from the cluster; its data directory is of no use"
        );
        self.end(End::Removed);
    }

    fn end(&self, reason: End) {
        let _ = self.reason.set(reason);
        self.changed.send_replace(true);
    }

    pub fn is_set(&self) -> bool {
        self.reason.get().is_some()
    }

    pub fn reason(&self) -> Option<&End> {
        self.reason.get()
    }

    pub async fn happened(&self) {
        let mut changed = self.changed.subscribe();
        // The sender lives as long as `self`.
        let _ = changed.wait_for(|set| *set).await;
    }
}
