//! Watches of everything, one on each member, from the first revision to the last: what really happened.
//!
//! A stream that breaks is continued by another from where it was. Their events settle what became of writes that
//! nobody was answered (`fates`), and all members' must be the same (`judge`).

use std::{rc::Rc, time::Duration};

use oracle::history::{
    Client, Revision,
    request::{End, Span},
    watch::{WatchCommand, WatchCreate},
};
use tokio::{
    sync::watch::Receiver,
    time::{sleep, timeout},
};

use crate::{stream::WatchStream, world::World};

/// The first key there can be, so that a span from here holds all.
pub const FIRST_KEY: &str = "\0";
/// A stream that is silent for so long may be to nobody.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(40);
const WINDOW_BYTES: u32 = 4 << 20;

/// Watches a member until all up to the revision in `last` was told, once that is not 0; the place of the last stream.
pub async fn observe(world: Rc<World>, at: usize, mut last: Receiver<Revision>) -> usize {
    let client = world.notes.borrow_mut().next_client();
    let mut next = 1;
    loop {
        if let Some(place) = follow(&world, client, at, &mut next, &mut last).await {
            return place;
        }
        sleep(RETRY).await;
    }
}

/// One stream from `next` on; its place, if it saw the last revision.
async fn follow(
    world: &Rc<World>,
    client: Client,
    at: usize,
    next: &mut Revision,
    last: &mut Receiver<Revision>,
) -> Option<usize> {
    let mut stream = WatchStream::open(world, client, at, WINDOW_BYTES).await.ok()?;
    let span = Span { start: world.key(FIRST_KEY), end: End::Open };
    let create = WatchCreate {
        id: 0,
        span,
        start: *next,
        prev_kv: at == 0,
        progress_notify: false,
        fragment: false,
        no_put: false,
        no_delete: false,
    };
    stream.ask(WatchCommand::Create(create)).ok()?;
    loop {
        let wanted = *last.borrow_and_update();
        if wanted != 0 && *next > wanted {
            return Some(stream.finish());
        }
        let told = tokio::select! {
            told = timeout(SILENCE_LIMIT, stream.next()) => told.ok()?.ok()?,
            changed = last.changed() => {
                changed.ok()?;
                continue;
            }
        };
        let has_users = !world.rights.borrow().changes.is_empty();
        if told.created && told.canceled && told.compact_revision == 0 && has_users {
            // Nobody may watch without a token, and ours may be gone.
            stream.forget();
            return None;
        }
        if told.canceled {
            *next = (*next).max(told.compact_revision);
            return None;
        }
        if let Some(event) = told.events.last().filter(|_| !told.fragment) {
            *next = (*next).max(event.kv.mod_revision + 1);
            world.observed(*next - 1);
        }
    }
}
