//! The metrics page: Prometheus text, with etcd's names for what exists here.
//!
//! Every figure is read when the page is asked for; nothing is sampled in between. Written by hand because the names
//! are etcd's, whose gauges and counters do not follow the suffix rules that exposition libraries enforce.

use std::{
    fmt::{Display, Write},
    sync::{Arc, atomic::Ordering},
};

use proto::etcdserverpb::AlarmType;
use tonic::Code;

use super::{
    router::{Context, Method},
    watch::Shard,
};
use crate::{config, mvcc::View, node::Node, peer::stats::Histogram, raft::Role};

struct Page(String);

impl Page {
    fn kind(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.kind(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.kind(name, "counter", help);
        self.sample(name, "", value);
    }

    fn histogram<const N: usize>(&mut self, name: &str, help: &str, labels: &str, histogram: &Histogram<N>) {
        if labels.is_empty() {
            self.kind(name, "histogram", help);
        }
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, count) in histogram.buckets() {
            self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), count);
        }
        self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"+Inf\""), histogram.count());
        self.sample(&format!("{name}_sum"), labels, histogram.sum_seconds());
        self.sample(&format!("{name}_count"), labels, histogram.count());
    }
}

pub fn page(context: &Context, shards: &[Arc<Shard>], view: &View) -> String {
    let mut page = Page(String::with_capacity(32 << 10));
    server(&mut page, &context.node);
    disk(&mut page, &context.node);
    mvcc(&mut page, &context.node, shards, view);
    network(&mut page, context);
    grpc(&mut page, context);
    process(&mut page);
    page.0
}

fn server(page: &mut Page, node: &Node) {
    let status = &node.status;
    let state = status.soft_state();
    let membership = node.published.membership.load();
    let load = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    page.gauge("etcd_server_has_leader", "Whether or not a leader exists.", u8::from(state.leader != 0));
    page.gauge(
        "etcd_server_is_leader",
        "Whether or not this member is a leader.",
        u8::from(state.role == Role::Leader),
    );
    let learner = membership.get(node.id).is_some_and(|member| member.is_learner);
    page.gauge("etcd_server_is_learner", "Whether or not this member is a learner.", u8::from(learner));
    page.kind("etcd_server_id", "gauge", "Server or member ID in hexadecimal format.");
    page.sample("etcd_server_id", &format!("server_id=\"{:x}\"", node.id), 1);
    page.kind("etcd_server_version", "gauge", "Which version is running.");
    page.sample("etcd_server_version", &format!("server_version=\"{}\"", config::VERSION), 1);
    if let Some(version) = membership.version() {
        let short = version.rsplit_once('.').map_or(version, |(short, _)| short);
        page.kind("etcd_cluster_version", "gauge", "Which version is running across the cluster.");
        page.sample("etcd_cluster_version", &format!("cluster_version=\"{short}\""), 1);
    }
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "The number of leader changes seen.",
        load(&status.leader_changes),
    );
    page.counter(
        "etcd_server_slow_apply_total",
        "The total number of slow apply requests.",
        load(&status.slow_applies),
    );
    page.counter("etcd_server_slow_read_indexes_total", "The total number of pending read indexes not in sync with leader's or timed out read index requests.", load(&status.slow_read_indexes));
    page.counter(
        "etcd_server_read_indexes_failed_total",
        "The total number of failed read indexes seen.",
        load(&status.read_indexes_failed),
    );
    page.gauge(
        "etcd_server_proposals_committed_total",
        "The total number of consensus proposals committed.",
        load(&status.committed),
    );
    page.gauge(
        "etcd_server_proposals_applied_total",
        "The total number of consensus proposals applied.",
        load(&status.applied),
    );
    page.gauge(
        "etcd_server_proposals_pending",
        "The current number of pending proposals to commit.",
        node.pending_proposals(),
    );
    page.counter(
        "etcd_server_proposals_failed_total",
        "The total number of failed proposals seen.",
        load(&status.proposals_failed),
    );
    page.gauge(
        "etcd_server_quota_backend_bytes",
        "Current backend storage quota size in bytes.",
        node.config.quota_bytes().unwrap_or(0),
    );
    let name = "etcd_server_apply_duration_seconds";
    page.histogram(name, "The latency distributions of v2 apply called by backend.", "", &node.metrics.apply);
    page.kind("etcd_debugging_server_alarms", "gauge", "Alarms for every member in cluster.");
    for alarm in node.published.alarms.load().list(AlarmType::None) {
        let kind = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
        page.sample(
            "etcd_debugging_server_alarms",
            &format!("server_id=\"{:x}\",alarm_type=\"{kind}\"", alarm.member_id),
            1,
        );
    }
    page.gauge(
        "etcd_debugging_auth_revision",
        "The current revision of auth store.",
        node.published.auth.load().revision(),
    );
    page.gauge(
        "keelson_simple_tokens",
        "Simple tokens of logged-in users that this member knows.",
        node.published.tokens.lock().len(),
    );
    page.gauge(
        "keelson_apply_backlog_bytes",
        "Bytes applied and not yet written to the backend.",
        load(&status.backlog_bytes),
    );
    let leases = *node.published.lease_stats.lock();
    page.counter(
        "etcd_debugging_lease_granted_total",
        "The total number of granted leases.",
        leases.granted_total,
    );
    page.counter(
        "etcd_debugging_lease_revoked_total",
        "The total number of revoked leases.",
        leases.revoked_total,
    );
    page.counter(
        "etcd_debugging_lease_renewed_total",
        "The number of renewed leases seen by the leader.",
        leases.renewed_total,
    );
    page.counter(
        "etcd_debugging_server_lease_expired_total",
        "The total number of expired leases.",
        leases.expired_total,
    );
}

fn disk(page: &mut Page, node: &Node) {
    let metrics = &node.metrics;
    page.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "The latency distributions of fsync called by WAL.",
        "",
        &metrics.wal_fsync,
    );
    page.histogram(
        "etcd_disk_wal_write_duration_seconds",
        "The latency distributions of write called by WAL.",
        "",
        &metrics.wal_write,
    );
    page.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "The latency distributions of commit called by backend.",
        "",
        &metrics.backend_commit,
    );
    let (size, in_use) = node.backend_size();
    page.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Total size of the underlying database physically allocated in bytes.",
        size,
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Total size of the underlying database logically in use in bytes.",
        in_use,
    );
}

fn mvcc(page: &mut Page, node: &Node, shards: &[Arc<Shard>], view: &View) {
    let metrics = &node.metrics;
    let load = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    page.counter("etcd_mvcc_put_total", "Total number of puts seen by this member.", load(&metrics.puts));
    page.counter(
        "etcd_mvcc_delete_total",
        "Total number of deletes seen by this member.",
        load(&metrics.deletes),
    );
    page.counter(
        "etcd_mvcc_range_total",
        "Total number of ranges seen by this member.",
        load(&metrics.ranges),
    );
    page.counter("etcd_mvcc_txn_total", "Total number of txns seen by this member.", load(&metrics.txns));
    page.gauge("etcd_debugging_mvcc_keys_total", "Total number of keys.", view.root.len());
    page.gauge("etcd_debugging_mvcc_current_revision", "The current revision of store.", view.revision);
    page.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The revision of the last compaction in store.",
        view.compact_revision,
    );
    page.counter(
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "Total number of db keys compacted.",
        load(&metrics.compacted_keys),
    );
    let (mut streams, mut watchers, mut slow, mut pending, mut total) = (0, 0, 0, 0, 0);
    for stats in shards.iter().map(|shard| shard.stats()) {
        streams += stats.streams;
        watchers += stats.watchers;
        slow += stats.slow_watchers;
        pending += stats.pending_events;
        total += stats.events_total;
    }
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.", streams);
    page.gauge("etcd_debugging_mvcc_watcher_total", "Total number of watchers.", watchers);
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers.", slow);
    page.gauge(
        "etcd_debugging_mvcc_pending_events_total",
        "Total number of pending events to be sent.",
        pending,
    );
    page.counter("etcd_debugging_mvcc_events_total", "Total number of events sent by this member.", total);
}

fn network(page: &mut Page, context: &Context) {
    let load = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    page.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "The total number of bytes received from grpc clients.",
        load(&context.counters.received_bytes),
    );
    page.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "The total number of bytes sent to grpc clients.",
        load(&context.counters.sent_bytes),
    );
    let Some(transport) = context.node.transport() else { return };
    let peers = transport.peer_stats();
    let label = |name: &str, id: u64| format!("{name}=\"{id:x}\"");
    macro_rules! per_peer {
        ($name:literal, $kind:literal, $help:literal, $label:literal, $value:expr) => {
            page.kind($name, $kind, $help);
            for (id, stats) in &peers {
                let value: fn(&crate::peer::stats::Stats) -> u64 = $value;
                page.sample($name, &label($label, *id), value(stats));
            }
        };
    }
    per_peer!(
        "etcd_network_peer_sent_bytes_total",
        "counter",
        "The total number of bytes sent to peers.",
        "To",
        |it| it.sent_bytes.load(Ordering::Relaxed)
    );
    per_peer!(
        "etcd_network_peer_received_bytes_total",
        "counter",
        "The total number of bytes received from peers.",
        "From",
        |it| it.received_bytes.load(Ordering::Relaxed)
    );
    per_peer!(
        "etcd_network_peer_sent_failures_total",
        "counter",
        "The total number of send failures from peers.",
        "To",
        |it| it.sent_failures.load(Ordering::Relaxed)
    );
    per_peer!(
        "etcd_network_peer_received_failures_total",
        "counter",
        "The total number of receive failures from peers.",
        "From",
        |it| it.received_failures.load(Ordering::Relaxed)
    );
    per_peer!(
        "etcd_network_snapshot_send_success",
        "counter",
        "Total number of successful snapshot sends.",
        "To",
        |it| it.snapshot_send.success.load(Ordering::Relaxed)
    );
    per_peer!(
        "etcd_network_snapshot_send_failures",
        "counter",
        "Total number of snapshot send failures.",
        "To",
        |it| it.snapshot_send.failures.load(Ordering::Relaxed)
    );
    per_peer!(
        "etcd_network_snapshot_receive_success",
        "counter",
        "Total number of successful snapshot receives.",
        "From",
        |it| it.snapshot_receive.success.load(Ordering::Relaxed)
    );
    per_peer!(
        "etcd_network_snapshot_receive_failures",
        "counter",
        "Total number of snapshot receive failures.",
        "From",
        |it| it.snapshot_receive.failures.load(Ordering::Relaxed)
    );
    let name = "etcd_network_peer_round_trip_time_seconds";
    page.kind(name, "histogram", "Round-Trip-Time histogram between peers");
    for (id, stats) in &peers {
        page.histogram(name, "", &label("To", *id), &stats.round_trip);
    }
    let name = "etcd_network_active_peers";
    page.kind(name, "gauge", "The current number of active peer connections.");
    for (id, _) in &peers {
        let labels = format!("Local=\"{:x}\",Remote=\"{id:x}\"", context.node.id);
        page.sample(name, &labels, u8::from(transport.active_since(*id).is_some()));
    }
}

fn grpc(page: &mut Page, context: &Context) {
    let counters = &context.counters;
    let labels = |(_, kind, service, method): &(Method, super::router::Kind, &str, &str)| {
        format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{}\"", kind.name())
    };
    for (name, help, values) in [
        ("grpc_server_started_total", "Total number of RPCs started on the server.", &counters.started),
        (
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
            &counters.received,
        ),
        (
            "grpc_server_msg_sent_total",
            "Total number of gRPC stream messages sent by the server.",
            &counters.sent,
        ),
    ] {
        page.kind(name, "counter", help);
        for (entry, value) in Method::ALL.iter().zip(values) {
            page.sample(name, &labels(entry), value.load(Ordering::Relaxed));
        }
    }
    let name = "grpc_server_handled_total";
    page.kind(
        name,
        "counter",
        "Total number of RPCs completed on the server, regardless of success or failure.",
    );
    for (entry, codes) in Method::ALL.iter().zip(&counters.handled) {
        for (code, value) in codes.iter().enumerate() {
            let code = format!("{:?}", Code::from(code as i32));
            // Go's names.
            let code = match code.as_str() {
                "Ok" => "OK",
                "Cancelled" => "Canceled",
                code => code,
            };
            let labels = format!("grpc_code=\"{code}\",{}", labels(entry));
            page.sample(name, &labels, value.load(Ordering::Relaxed));
        }
    }
}

/// From /proc, where there is one.
fn process(page: &mut Page) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command may hold spaces; fields are counted behind its parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let field =
        |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let ticks_per_second = 100.0;
    page.counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        (field(14) + field(15)) as f64 / ticks_per_second,
    );
    page.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", field(23));
    page.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", field(24) * 4096);
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok()).unwrap_or(0.0);
    page.gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        boot + field(22) as f64 / ticks_per_second,
    );
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    page.gauge("process_open_fds", "Number of open file descriptors.", open);
    page.gauge("os_fd_used", "The number of used file descriptors.", open);
    let limit = descriptor_limit();
    page.gauge("process_max_fds", "Maximum number of open file descriptors.", limit.unwrap_or(0));
    page.gauge("os_fd_limit", "The file descriptor limit.", limit.unwrap_or(0));
}

pub(super) fn descriptor_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
}
