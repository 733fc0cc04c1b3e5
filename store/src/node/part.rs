//! The parts of a node: each owns its state and an inbox, and a `turn` does all that is to be done at that moment.
//!
//! The server gives each a thread (`run`); the simulator turns them one at a time, in an order of its choice.

use super::mailbox::Wake;

pub trait Part: Send {
    /// When it has to be turned though nothing came.
    fn wake(&self) -> Wake;
    /// Messages in its inbox.
    fn waiting(&self) -> usize;
    /// Blocks until something comes, or until `wake`.
    fn wait(&self);
    /// False once it has ended.
    fn turn(&mut self) -> bool;
}

/// Turns a part until it ends.
pub fn run(mut part: impl Part) {
    loop {
        part.wait();
        if !part.turn() {
            return;
        }
    }
}

/// What every part does with its inbox, the field `inputs`.
macro_rules! inbox {
    () => {
        fn waiting(&self) -> usize {
            self.inputs.waiting()
        }

        fn wait(&self) {
            self.inputs.wait(self.wake());
        }
    };
}

pub(crate) use inbox;
