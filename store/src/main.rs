//! `etcd`: parse, start, wait, stop.

#![expect(clippy::disallowed_methods, reason = "starts the server apart from the signals")]

use std::process::ExitCode;

use store::{
    config::{Command, Config},
    log,
    node::fatal::End,
    server::Server,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory is taken from the system as it is needed, not a region at a time: with 300,000 keys of 256 bytes that is a
/// fifth less. Must be set before the first allocation, so it runs with the C library's own constructors.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static COMMIT_LAZILY: extern "C" fn() = {
    extern "C" fn set() {
        /// `mi_option_arena_eager_commit`
        const ARENA_EAGER_COMMIT: libmimalloc_sys::mi_option_t = 4;
        // SAFETY: sets a number in the allocator's options, which may be done at any time.
        unsafe { libmimalloc_sys::mi_option_set(ARENA_EAGER_COMMIT, 0) }
    }
    set
};

fn main() -> ExitCode {
    bound_c_arenas();
    let (config, warnings) = match Command::from_process() {
        Ok(Command::Run { config, warnings }) => (config, warnings),
        Ok(Command::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(refusal) => {
            eprintln!("{refusal}");
            return ExitCode::from(refusal.exit_code() as u8);
        }
    };
    let log = match log::init(&config) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in warnings {
        tracing::warn!(subject = warning.subject, "{}", warning.message);
    }
    match run(*config) {
        Ok(Ending::Signal(signal)) => {
            // All is written then.
            drop(log);
            die_by(signal)
        }
        // As etcd: nothing is left to do.
        Ok(Ending::ByItself(End::Removed)) => ExitCode::SUCCESS,
        Ok(Ending::ByItself(End::Failed(reason))) | Err(reason) => {
            tracing::error!(error = reason, "the server ended");
            ExitCode::FAILURE
        }
    }
}

enum Ending {
    Signal(i32),
    ByItself(End),
}

/// Serves until a signal comes, or the member has to stop.
fn run(config: Config) -> Result<Ending, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|it| it.to_string())?;
    let urls =
        |urls: &[store::config::Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let (client_urls, peer_urls) = (urls(&config.listen_client_urls), urls(&config.listen_peer_urls));
    let data_dir = config.data_dir_path();
    tracing::info!(
        name = config.name,
        data_dir = %data_dir.display(),
        listen_client_urls = client_urls,
        listen_peer_urls = peer_urls,
        version = store::config::VERSION,
        "starting an etcd server"
    );
    let mut server = None;
    let outcome = runtime.block_on(serve(config, &mut server));
    if let Ok(Ending::Signal(signal)) = &outcome {
        tracing::info!(signal, "received signal; shutting down");
    }
    if let Some(server) = server {
        tracing::info!(data_dir = %data_dir.display(), "closing etcd server");
        server.stop();
        tracing::info!(data_dir = %data_dir.display(), "closed etcd server");
    }
    // A start that is still under way is left alone: what it does to the data may be cut off at any moment.
    runtime.shutdown_background();
    outcome
}

async fn serve(config: Config, place: &mut Option<Server>) -> Result<Ending, String> {
    let signal = wait_for_signal();
    tokio::pin!(signal);
    // It waits for other members, or takes data over. The first process of a container would not end by signals then.
    let starting = tokio::task::spawn_blocking(|| Server::start(config));
    let server = tokio::select! {
        started = starting => started.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?,
        signal = &mut signal => return signal.map(Ending::Signal),
    };
    let server = place.insert(server);
    tokio::select! {
        () = server.ready() => {
            tracing::info!("ready to serve client requests");
            for address in server.client_addresses() {
                if server.is_secure(address) {
                    tracing::info!(%address, "serving client traffic securely");
                } else {
                    tracing::info!(%address, "serving client traffic insecurely; this is strongly discouraged!");
                }
            }
        }
        signal = &mut signal => return signal.map(Ending::Signal),
    }
    tokio::select! {
        signal = signal => signal.map(Ending::Signal),
        end = server.ended() => Ok(Ending::ByItself(end)),
    }
}

async fn wait_for_signal() -> Result<i32, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| error.to_string());
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(tokio::select! {
        _ = interrupt.recv() => libc::SIGINT,
        _ = terminate.recv() => libc::SIGTERM,
    })
}

/// As etcd does: the shell sees that the signal ended the process, but for the first process of a container. Either way
/// nothing is tidied up any more: a start may be under way still.
fn die_by(signal: i32) -> ! {
    // SAFETY: all calls take plain numbers; the process ends here.
    unsafe {
        if libc::getpid() != 1 {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        libc::_exit(0)
    }
}

/// RocksDB allocates through the C library, which by default keeps an arena per thread and gives little of it back.
fn bound_c_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes plain numbers, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
    }
}
