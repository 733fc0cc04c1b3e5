//! Watches that survive their connection. All watches of one [`Watcher`] share one stream; when it breaks, a new
//! one is opened and each watch goes on one revision after the last event it passed on, so none is lost or doubled.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::*;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::{Client, Error};

/// What a watch yields.
#[derive(Debug)]
pub enum Update {
    /// Events, a progress notification, or the cancellation that ends the watch.
    Response(WatchResponse),
    /// The stream failed for good; the watch has ended.
    Failed(Error),
}

#[derive(Debug)]
enum Order {
    Create(WatchCreateRequest, mpsc::Sender<Update>),
    Progress,
}

/// Answers not yet taken by the user of a watch; beyond it the stream waits.
const BACKLOG: usize = 64;
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// A handle to the task that owns the stream. Dropping it ends the task once no watch is left.
pub struct Watcher {
    orders: mpsc::Sender<Order>,
}

impl Watcher {
    /// Starts the task; needs a `LocalSet`.
    pub fn start(client: Rc<Client>) -> Self {
        let (orders, receiver) = mpsc::channel(BACKLOG);
        tokio::task::spawn_local(serve(client, receiver));
        Self { orders }
    }

    /// A new watch. Its updates end after a cancellation or failure.
    pub async fn create(&self, request: WatchCreateRequest) -> mpsc::Receiver<Update> {
        let (updates, receiver) = mpsc::channel(BACKLOG);
        // A task that is gone drops the sender, which ends the receiver.
        let _ = self.orders.send(Order::Create(request, updates)).await;
        receiver
    }

    /// Asks for a progress notification, which goes to every watch.
    pub async fn request_progress(&self) {
        let _ = self.orders.send(Order::Progress).await;
    }
}

/// One watch: what to ask for when the stream is opened again, and who listens.
struct Watch {
    request: WatchCreateRequest,
    updates: mpsc::Sender<Update>,
}

/// The watches of one stream by the number the server gave them. Creations are answered in their order.
#[derive(Default)]
struct Watches {
    running: BTreeMap<i64, Watch>,
    creating: VecDeque<Watch>,
}

async fn serve(client: Rc<Client>, mut orders: mpsc::Receiver<Order>) {
    let mut watches = Watches::default();
    while let Some(order) = orders.recv().await {
        watches.note(order);
        while !watches.is_empty() {
            if let Err(error) = watches.follow(&client, &mut orders).await {
                if !error.is_passing() {
                    watches.fail(&error).await;
                    return;
                }
                watches.prepare_to_reopen();
                sleep(REOPEN_PAUSE).await;
            }
        }
    }
}

impl Watches {
    fn is_empty(&self) -> bool {
        self.running.is_empty() && self.creating.is_empty()
    }

    /// Takes an order while there is no stream; progress without watches concerns nobody.
    fn note(&mut self, order: Order) {
        if let Order::Create(request, updates) = order {
            self.creating.push_back(Watch { request, updates });
        }
    }

    /// Opens a stream, asks for all watches and passes answers on until it breaks or no watch is left.
    async fn follow(&mut self, client: &Client, orders: &mut mpsc::Receiver<Order>) -> Result<(), Error> {
        client.renew_token().await?;
        let (channel, endpoint) = client.connections.pick().await?;
        let (requests, receiver) = mpsc::channel(BACKLOG);
        let mut client_stub =
            WatchClient::new(channel).max_decoding_message_size(client.options.max_response_bytes);
        let first: Vec<_> = self.creating.iter().map(|watch| watch.request.clone()).collect();
        // More requests than the channel holds can be waiting, and nobody reads it before the stream is open.
        let opening = client_stub.watch(client.leader_required(ReceiverStream::new(receiver)));
        let asking = async {
            for request in first {
                send(&requests, RequestUnion::CreateRequest(request)).await?;
            }
            Ok::<(), Error>(())
        };
        let (opened, asked) = tokio::join!(opening, asking);
        let outcome = async {
            let mut responses = opened?.into_inner();
            asked?;
            self.pass_on(&mut responses, &requests, orders).await
        }
        .await;
        if outcome.is_err() {
            client.connections.give_up_on(endpoint);
        }
        outcome
    }

    async fn pass_on(
        &mut self,
        responses: &mut Streaming<WatchResponse>,
        requests: &mpsc::Sender<WatchRequest>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Result<(), Error> {
        let mut open = true;
        while !self.is_empty() {
            tokio::select! {
                response = responses.message() => {
                    self.accept(response?.ok_or_else(Error::closed)?).await;
                }
                order = orders.recv(), if open => match order {
                    Some(Order::Create(request, updates)) => {
                        self.creating.push_back(Watch { request: request.clone(), updates });
                        send(requests, RequestUnion::CreateRequest(request)).await?;
                    }
                    Some(Order::Progress) => {
                        send(requests, RequestUnion::ProgressRequest(WatchProgressRequest {})).await?;
                    }
                    None => open = false,
                },
            }
        }
        Ok(())
    }

    async fn accept(&mut self, response: WatchResponse) {
        if response.created {
            if let Some(mut watch) = self.creating.pop_front() {
                if watch.request.start_revision == 0 {
                    // "From now on" is from then on, should the stream break before the first event.
                    watch.request.start_revision =
                        response.header.as_ref().map_or(0, |header| header.revision + 1);
                }
                if response.canceled {
                    // What is refused for a reason never was a watch; etcd's client does not show the answer either.
                    let update = match response.cancel_reason.is_empty() {
                        true => Update::Response(response),
                        false => Update::Failed(cancellation(&response)),
                    };
                    let _ = watch.updates.send(update).await;
                } else {
                    self.running.insert(response.watch_id, watch);
                }
            }
            return;
        }
        if response.watch_id == -1 {
            for watch in self.running.values() {
                let _ = watch.updates.send(Update::Response(response.clone())).await;
            }
            return;
        }
        let id = response.watch_id;
        let Some(watch) = self.running.get_mut(&id) else { return };
        if let Some(next) = next_revision(&response) {
            watch.request.start_revision = watch.request.start_revision.max(next);
        }
        let ends = response.canceled || response.compact_revision != 0;
        let heard = watch.updates.send(Update::Response(response)).await.is_ok();
        if ends || !heard {
            self.running.remove(&id);
        }
    }

    fn prepare_to_reopen(&mut self) {
        let running = std::mem::take(&mut self.running).into_values();
        // Those that ran are older than those that wait.
        let waiting = std::mem::take(&mut self.creating);
        self.creating = running.chain(waiting).collect();
    }

    async fn fail(&mut self, error: &Error) {
        self.prepare_to_reopen();
        for watch in self.creating.drain(..) {
            let _ = watch.updates.send(Update::Failed(error.clone())).await;
        }
    }
}

/// Where a watch goes on after `response`: past its last event, or past a revision the server vouches for.
fn next_revision(response: &WatchResponse) -> Option<i64> {
    let last = response.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
    let progress = response.header.as_ref().map(|header| header.revision);
    last.or(progress.filter(|_| is_progress(response))).map(|revision| revision + 1)
}

/// Neither events nor an end: the server says how far the watch has come.
pub fn is_progress(response: &WatchResponse) -> bool {
    response.events.is_empty()
        && !response.canceled
        && !response.created
        && response.compact_revision == 0
        && response.header.as_ref().is_some_and(|header| header.revision != 0)
}

/// Why the server ended a watch, as etcd's client words it.
pub fn cancellation(response: &WatchResponse) -> Error {
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let future = "etcdserver: mvcc: required revision is a future revision";
    if response.compact_revision != 0 {
        Error::Status(Code::OutOfRange, compacted.into())
    } else if response.cancel_reason.is_empty() {
        Error::Status(Code::OutOfRange, future.into())
    } else {
        Error::Text(response.cancel_reason.clone())
    }
}

async fn send(requests: &mpsc::Sender<WatchRequest>, request: RequestUnion) -> Result<(), Error> {
    requests.send(WatchRequest { request_union: Some(request) }).await.map_err(|_| Error::closed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(key: &'static [u8]) -> (Watch, mpsc::Receiver<Update>) {
        let (updates, receiver) = mpsc::channel(4);
        let request = WatchCreateRequest { key: key.into(), start_revision: 3, ..Default::default() };
        (Watch { request, updates }, receiver)
    }

    fn header(revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision, ..Default::default() })
    }

    #[tokio::test]
    async fn a_reopened_stream_goes_on_after_the_last_event() {
        let mut watches = Watches::default();
        let (first, mut updates) = watch(b"a");
        let (second, _second_updates) = watch(b"b");
        watches.creating.push_back(first);
        watches
            .accept(WatchResponse { watch_id: 7, created: true, header: header(5), ..Default::default() })
            .await;
        let kv = proto::mvccpb::KeyValue { mod_revision: 9, ..Default::default() };
        let event = proto::mvccpb::Event { kv: Some(kv), ..Default::default() };
        let answer =
            WatchResponse { watch_id: 7, header: header(12), events: vec![event], ..Default::default() };
        watches.accept(answer).await;
        assert!(matches!(updates.try_recv(), Ok(Update::Response(r)) if r.events.len() == 1));
        watches.creating.push_back(second);
        watches.prepare_to_reopen();
        let revisions: Vec<_> = watches.creating.iter().map(|w| w.request.start_revision).collect();
        assert_eq!(revisions, [10, 3]);
    }

    #[tokio::test]
    async fn a_watch_from_now_on_keeps_its_now() {
        let mut watches = Watches::default();
        let (mut watch, _updates) = watch(b"a");
        watch.request.start_revision = 0;
        watches.creating.push_back(watch);
        watches
            .accept(WatchResponse { watch_id: 1, created: true, header: header(5), ..Default::default() })
            .await;
        watches.prepare_to_reopen();
        assert_eq!(watches.creating[0].request.start_revision, 6);
    }

    #[tokio::test]
    async fn a_watch_refused_with_a_reason_fails() {
        for (reason, fails) in [("etcdserver: permission denied", true), ("", false)] {
            let mut watches = Watches::default();
            let (watch, mut updates) = watch(b"a");
            watches.creating.push_back(watch);
            let cancel_reason = reason.into();
            let refusal =
                WatchResponse { created: true, canceled: true, cancel_reason, ..Default::default() };
            watches.accept(refusal).await;
            match updates.try_recv() {
                Ok(Update::Failed(error)) => assert!(fails && error.to_string() == reason),
                other => assert!(!fails, "{other:?}"),
            }
            assert!(watches.is_empty());
        }
    }

    #[tokio::test]
    async fn progress_reaches_all_and_cancellation_ends_one() {
        let mut watches = Watches::default();
        let (first, mut updates) = watch(b"a");
        let (second, mut others) = watch(b"b");
        watches.running.extend([(1, first), (2, second)]);
        watches.accept(WatchResponse { watch_id: -1, header: header(20), ..Default::default() }).await;
        let end = WatchResponse { watch_id: 1, canceled: true, compact_revision: 4, ..Default::default() };
        assert!(cancellation(&end).to_string().ends_with("has been compacted"));
        watches.accept(end).await;
        assert!(matches!(updates.try_recv(), Ok(Update::Response(r)) if is_progress(&r)));
        assert!(matches!(updates.try_recv(), Ok(Update::Response(r)) if r.canceled));
        assert!(matches!(updates.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        assert!(matches!(others.try_recv(), Ok(Update::Response(r)) if is_progress(&r)));
        assert_eq!(watches.running.len(), 1);
    }
}
