//! Runs chaos from the command line: `chaos [time=60] [seed=1] [runs=N] [etcd=PATH] [workload=a,b] [faults=x,y]
//! [at_once=2] [out=DIR] [keep_going] [require_all]`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use chaos::{Options, Progress};

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match chaos::run(options, &mut |progress| tell(&progress)) {
        Ok(summary) => {
            println!("{summary}");
            if summary.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        etcd: None,
        time: Duration::from_secs(60),
        runs: None,
        seed: 1,
        workloads: Vec::new(),
        faults: Vec::new(),
        at_once: 2,
        require_all: false,
        keep_going: false,
        out: PathBuf::from("target/chaos"),
    };
    for argument in arguments {
        let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
        let number = || value.parse::<u64>().map_err(|error| format!("{argument}: {error}"));
        match name {
            "etcd" => options.etcd = Some(value.into()),
            "time" => options.time = Duration::from_secs(number()?),
            "runs" => options.runs = Some(number()?),
            "seed" => options.seed = number()?,
            "workload" => options.workloads = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "faults" => options.faults = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "at_once" => options.at_once = number()? as usize,
            "require_all" => options.require_all = true,
            "keep_going" => options.keep_going = true,
            "out" => options.out = value.into(),
            _ => return Err(format!("{argument}: unknown; see the head of this example")),
        }
    }
    Ok(options)
}

fn tell(progress: &Progress) {
    match progress {
        Progress::Begun { server, version } => println!("{}: etcd {version}", server.display()),
        Progress::Skipped { fault, why } => println!("skipped: {fault}: {why}"),
        Progress::Ended(ended) => {
            let healed = ended
                .healed
                .map_or("not healed".to_owned(), |it| format!("healed in {:.1} s", it.as_secs_f64()));
            println!(
                "seed {} {}, {} members: {} operations, {} faults, {healed}, {:.1} s: {}",
                ended.seed,
                ended.workload,
                ended.members,
                ended.operations,
                ended.faults.len(),
                ended.took.as_secs_f64(),
                if ended.failure.is_some() { "FAILED" } else { "ok" },
            );
            if let Some(failure) = &ended.failure {
                println!("  faults: {}\n  {failure}", ended.faults.join("; "));
                if let Some(kept) = &ended.kept {
                    println!("  kept in {}", kept.display());
                }
            }
        }
    }
}
