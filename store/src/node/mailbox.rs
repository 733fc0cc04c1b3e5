//! Mailboxes between the node's threads: many senders, one receiver that takes all there is at once.
//!
//! Taking everything is what makes batches: what arrives while the receiver works is its next batch. A sender wakes the
//! receiver only when it sleeps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

struct State<T> {
    queue: Vec<T>,
    sleeping: Sleep,
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Awake,
    /// Wakes by itself before long.
    Briefly,
    /// Waits for something that is under way.
    Expecting,
    UntilWoken,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender(self.0.clone())
    }
}

/// When a receiver that finds nothing goes on.
#[derive(Clone, Copy)]
pub enum Wake {
    /// When something comes.
    Never,
    /// At the deadline too. With `expects`, something is sure to be sent soon.
    At { deadline: Instant, expects: bool },
}

/// Dropping it closes the mailbox.
pub struct Receiver<T>(Arc<Shared<T>>);

/// The receiver is gone; the item was dropped.
#[derive(Debug)]
pub struct Closed;

pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { queue: Vec::new(), sleeping: Sleep::Awake, closed: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    pub fn send(&self, item: T) -> Result<(), Closed> {
        self.push(item, |sleeping| sleeping != Sleep::Awake)
    }

    /// Items that the receiver has not taken.
    pub fn waiting(&self) -> usize {
        self.0.state.lock().queue.len()
    }

    /// Sends what can wait until the receiver next looks, if it will do so before long by itself: waking a thread costs
    /// more than most of what is sent.
    pub fn send_lazily(&self, item: T) -> Result<(), Closed> {
        self.push(item, |sleeping| sleeping == Sleep::UntilWoken)
    }

    /// Sends what may join other work: a receiver that expects to be woken soon is let sleep until then.
    pub fn send_to_join(&self, item: T) -> Result<(), Closed> {
        self.push(item, |sleeping| !matches!(sleeping, Sleep::Awake | Sleep::Expecting))
    }

    fn push(&self, item: T, wakes: impl FnOnce(Sleep) -> bool) -> Result<(), Closed> {
        let mut state = self.0.state.lock();
        if state.closed {
            return Err(Closed);
        }
        state.queue.push(item);
        if wakes(state.sleeping) {
            state.sleeping = Sleep::Awake;
            drop(state);
            self.0.wake.notify_one();
        }
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Waits for an item, until then.
    pub fn wait(&self, wake: Wake) {
        let mut state = self.0.state.lock();
        while state.queue.is_empty() {
            match wake {
                Wake::Never => {
                    state.sleeping = Sleep::UntilWoken;
                    self.0.wake.wait(&mut state);
                }
                Wake::At { deadline, expects } => {
                    state.sleeping = if expects { Sleep::Expecting } else { Sleep::Briefly };
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left == Duration::ZERO || self.0.wake.wait_for(&mut state, left).timed_out() {
                        break;
                    }
                }
            }
        }
        state.sleeping = Sleep::Awake;
    }

    /// Moves all items into `into`, which must be empty.
    pub fn take(&self, into: &mut Vec<T>) {
        std::mem::swap(&mut self.0.state.lock().queue, into);
    }

    /// Items not taken yet.
    pub fn waiting(&self) -> usize {
        self.0.state.lock().queue.len()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.queue);
        // Items may hold senders of this very mailbox.
        drop(state);
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_sent_is_taken_in_order() {
        let (sender, receiver) = mailbox();
        let thread = std::thread::spawn(move || (0..10_000).for_each(|item| sender.send(item).unwrap()));
        let mut all = Vec::new();
        let mut batch = Vec::new();
        while all.len() < 10_000 {
            receiver.wait(Wake::Never);
            receiver.take(&mut batch);
            all.append(&mut batch);
        }
        thread.join().unwrap();
        assert!(all.iter().copied().eq(0..10_000));
    }

    #[test]
    fn what_is_sent_lazily_wakes_a_receiver_that_would_sleep_on() {
        let (sender, receiver) = mailbox();
        let thread = std::thread::spawn(move || {
            let mut batch = Vec::new();
            receiver.wait(Wake::Never);
            receiver.take(&mut batch);
            batch
        });
        sender.send_lazily(1).unwrap();
        assert_eq!(thread.join().unwrap(), [1]);
    }

    #[test]
    fn a_dropped_receiver_refuses() {
        let (sender, receiver) = mailbox();
        drop(receiver);
        assert!(sender.send(1).is_err());
    }
}
