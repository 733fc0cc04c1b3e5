//! `txn`: one transaction read from standard input, as compares, success requests and failure requests, each part
//! ended by an empty line. `parse_compare` and `parse_request` read its lines.
//! Differs from etcdctl 3.5.1, where an unknown operator or a `lease` compare crashes and raw-quoted words lose
//! bytes: here the first is malformed input and the others work as documented.

use std::io::{self, BufRead, Write};

use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{Compare, RequestOp, TxnRequest};

use super::{del, get, put, words};
use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Invocation, command};
use crate::exit::{Exit, INVALID_INPUT, Outcome};
use crate::go::number::parse_int;
use crate::go::quote::{quote, unquote_prefix};

pub static COMMAND: Command = Command {
    usage: "txn [options]",
    short: "Txn processes all the requests in one transaction",
    flags: &[Flag::bool("interactive", "Input transaction in interactive mode").short('i')],
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

async fn run(mut invocation: Invocation) -> Outcome {
    if !invocation.args.words.is_empty() {
        return Err(Exit::bad_args("txn command does not accept argument"));
    }
    let session = Session::new(&mut invocation.flags).await?;
    let interactive = invocation.flags.bool("interactive");
    let prompt = |text: &str| if interactive { writeln!(io::stdout(), "{text}") } else { Ok(()) };
    let mut input = io::stdin().lock();
    prompt("compares:")?;
    let compare = read_part(&mut input, parse_compare)?;
    prompt("success requests (get, put, del):")?;
    let success = read_part(&mut input, parse_request)?;
    prompt("failure requests (get, put, del):")?;
    let failure = read_part(&mut input, parse_request)?;
    let request = TxnRequest { compare, success, failure };
    let response = session.client.txn(request).await.map_err(Exit::failed)?;
    session.printer.txn(&mut io::stdout().lock(), &response)
}

/// Lines up to an empty one, each read by `parse`.
fn read_part<T>(input: &mut impl BufRead, parse: impl Fn(&[u8]) -> Result<T, Exit>) -> Result<Vec<T>, Exit> {
    let mut parsed = Vec::new();
    loop {
        let mut line = Vec::new();
        input.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Err(invalid("EOF".into()));
        }
        match words::trim(&line) {
            [] => return Ok(parsed),
            line => parsed.push(parse(line)?),
        }
    }
}

fn invalid(message: String) -> Exit {
    Exit::new(INVALID_INPUT, message)
}

/// `target("key") op "value"`.
fn parse_compare(line: &[u8]) -> Result<Compare, Exit> {
    let shown = String::from_utf8_lossy(line);
    let Some(parenthesis) = line.iter().position(|&byte| byte == b'(') else {
        return Err(invalid(format!("malformed comparison: {shown}")));
    };
    let target = String::from_utf8_lossy(&line[..parenthesis]);
    let (mut key, mut op, mut value) = (Vec::new(), Vec::new(), Vec::new());
    if scan(&line[parenthesis + 1..], &mut key, &mut op, &mut value).is_none() {
        let (key, op, value) = (quote(&key), String::from_utf8_lossy(&op), quote(&value));
        return Err(invalid(format!("malformed comparison: {shown}; got {target}({key}) {op} {value}")));
    }
    let number = |base| {
        parse_int(&String::from_utf8_lossy(&value), base)
            .map_err(|_| invalid(format!("invalid txn compare request: {shown}")))
    };
    let (target, operand) = match target.as_ref() {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => return Err(invalid(format!("malformed comparison: {shown} (unknown target {target})"))),
    };
    let result = match op.as_slice() {
        b"=" => CompareResult::Equal,
        b"!=" => CompareResult::NotEqual,
        b">" => CompareResult::Greater,
        b"<" => CompareResult::Less,
        _ => {
            let op = String::from_utf8_lossy(&op);
            return Err(invalid(format!("malformed comparison: {shown} (unknown operator {op})")));
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(operand),
        ..Default::default()
    })
}

/// What follows the parenthesis, as Go scans `%q) %s %q`. The parts found before an error are filled in.
fn scan(text: &[u8], key: &mut Vec<u8>, op: &mut Vec<u8>, value: &mut Vec<u8>) -> Option<()> {
    let (found, rest) = unquote_prefix(text.trim_ascii_start())?;
    *key = found;
    let rest = rest.strip_prefix(b")")?;
    let word = rest.trim_ascii_start();
    if word.len() == rest.len() {
        return None;
    }
    let end = word.iter().position(u8::is_ascii_whitespace).unwrap_or(word.len());
    *op = word[..end].to_vec();
    (*value, _) = unquote_prefix(word[end..].trim_ascii_start())?;
    Some(())
}

/// The commands a transaction may hold; they share the flags of the real ones.
static REQUESTS: Command =
    Command { children: &[&del::COMMAND, &get::COMMAND, &put::COMMAND], ..Command::EMPTY };

fn parse_request(line: &[u8]) -> Result<RequestOp, Exit> {
    let shown = String::from_utf8_lossy(line);
    let words = words::split(line)?;
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {shown}")));
    }
    let malformed = || invalid(format!("invalid txn request: {shown}"));
    let (path, words) = command::find(&REQUESTS, &words);
    let Invocation { path, flags, args } = command::parse(path, &words, false).map_err(|_| malformed())?;
    let request = match path[path.len() - 1].name() {
        "get" => Request::RequestRange(get::request(&args.words, &flags)?),
        // Standard input holds the transaction, so a value cannot come from it.
        "put" => Request::RequestPut(put::request(&args.words, &flags, &mut io::empty())?),
        "del" => Request::RequestDeleteRange(del::request(&args.words, &flags)?),
        _ => return Err(malformed()),
    };
    Ok(RequestOp { request: Some(request) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare_error(line: &str) -> String {
        let exit = parse_compare(line.as_bytes()).unwrap_err();
        assert_eq!(exit.code, INVALID_INPUT);
        exit.message.unwrap()
    }

    #[test]
    fn compares() {
        let compare = parse_compare(br#"mod( "a\t")  >   "12" trailing"#).unwrap();
        assert_eq!(compare.key, "a\t");
        assert_eq!(compare.result(), CompareResult::Greater);
        assert_eq!(compare.target_union, Some(TargetUnion::ModRevision(12)));
        let compare = parse_compare(br#"lease("a") = "1f""#).unwrap();
        assert_eq!(compare.target_union, Some(TargetUnion::Lease(31)));
        let compare = parse_compare(b"val(`a`) != `1f`").unwrap();
        assert_eq!(compare.target_union, Some(TargetUnion::Value("1f".into())));
    }

    #[test]
    fn malformed_compares() {
        for (line, error) in [
            ("abc", "malformed comparison: abc"),
            ("foo(\"a\") = \"1\"", "malformed comparison: foo(\"a\") = \"1\" (unknown target foo)"),
            ("mod(a) = \"1\"", "malformed comparison: mod(a) = \"1\"; got mod(\"\")  \"\""),
            ("mod(\"a\") = 1", "malformed comparison: mod(\"a\") = 1; got mod(\"a\") = \"\""),
            ("mod(\"a\")= \"1\"", "malformed comparison: mod(\"a\")= \"1\"; got mod(\"a\")  \"\""),
            ("mod(\"a\") =\"1\"", "malformed comparison: mod(\"a\") =\"1\"; got mod(\"a\") =\"1\" \"\""),
            ("mod(\"a\" ) = \"1\"", "malformed comparison: mod(\"a\" ) = \"1\"; got mod(\"a\")  \"\""),
            ("mod(\"a\") = \"x\"", "invalid txn compare request: mod(\"a\") = \"x\""),
            ("mod(\"a\") == \"1\"", "malformed comparison: mod(\"a\") == \"1\" (unknown operator ==)"),
        ] {
            assert_eq!(compare_error(line), error);
        }
    }

    #[test]
    fn requests() {
        let request = |line: &str| parse_request(line.as_bytes());
        let put = request("put 'a b' -- -5").unwrap().request;
        assert!(matches!(put, Some(Request::RequestPut(put)) if put.key == "a b" && put.value == "-5"));
        let get = request("get a --prefix --limit 3").unwrap().request;
        assert!(matches!(get, Some(Request::RequestRange(get)) if get.range_end == "b" && get.limit == 3));
        let del = request("del a b").unwrap().request;
        assert!(matches!(del, Some(Request::RequestDeleteRange(del)) if del.range_end == "b"));
        for (line, code, error) in [
            ("get", 3, "invalid txn compare request: get"),
            ("foo a", 3, "invalid txn request: foo a"),
            ("get a --nosuch", 3, "invalid txn request: get a --nosuch"),
            ("get a --help", 3, "invalid txn request: get a --help"),
            ("get a -w json", 3, "invalid txn request: get a -w json"),
            ("get a --order x", 4, "bad sort order x"),
            ("put a", 128, "put command needs 1 argument and input from stdin or 2 arguments"),
        ] {
            assert_eq!(request(line), Err(Exit::new(code, error)));
        }
    }

    #[test]
    fn parts_end_with_an_empty_line() {
        let mut input = &b"a\n b \n\nrest"[..];
        let lines = read_part(&mut input, |line| Ok(line.to_vec())).unwrap();
        assert_eq!(lines, [b"a", b"b"]);
        let unfinished = read_part(&mut input, |line| Ok(line.to_vec()));
        assert_eq!(unfinished, Err(Exit::new(INVALID_INPUT, "EOF")));
    }
}
