//! How `fleetmend` begins, as real processes: a new fleet, a wrong configuration, a port or a database that cannot be had.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use fleetmend_controller::config::Config;
use fleetmend_tests::process::{Process, binary};

const PATIENCE: Duration = Duration::from_secs(20);
const FREE_PORTS: [&str; 6] =
    ["--enrollment-addr", "127.0.0.1:0", "--agents-addr", "127.0.0.1:0", "--operators-addr", "127.0.0.1:0"];

fn fleetmend(args: &[&str]) -> Output {
    Command::new(binary("fleetmend").expect("built")).args(args).output().expect("started")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A fleet in a folder of its own, whose listeners take any free port.
fn fleet() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("fleet");
    let made = fleetmend(&[&["init", "--data-dir", text(&data)], &FREE_PORTS[..]].concat());
    assert!(made.status.success(), "{}", said(&made));
    (folder, data.join("fleetmend.toml"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn serve(config: &Path) -> Process {
    let args = ["serve", "--config", text(config)].map(str::to_owned);
    let log = config.with_extension("log");
    Process::start("fleetmend", &binary("fleetmend").expect("built"), &args, &log).expect("started")
}

/// Replaces the first of a text in the configuration.
fn change(config: &Path, from: &str, to: &str) {
    let before = fs::read_to_string(config).expect("a configuration");
    assert!(before.contains(from), "{from} is not in the configuration");
    fs::write(config, before.replacen(from, to, 1)).expect("written");
}

#[test]
fn init_makes_a_fleet_that_checks_out_and_says_where_everything_is() {
    let (_folder, config) = fleet();
    let checked = fleetmend(&["check-config", "--config", text(&config)]);
    assert!(checked.status.success(), "{}", said(&checked));

    let data = config.parent().expect("a folder");
    let again = fleetmend(&["init", "--data-dir", text(data)]);
    assert_eq!(again.status.code(), Some(74), "{}", said(&again));
    assert!(said(&again).contains("exists already"), "{}", said(&again));

    let listed = fleetmend(&["token", "list", "--output", "json", "--config", text(&config)]);
    let tokens: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(tokens.as_array().map(Vec::len), Some(1), "{tokens}");
    let token = fs::read_to_string(data.join("operator.token")).expect("a token");
    assert!(token.starts_with("fm_") && !tokens.to_string().contains(token.trim()));
}

#[test]
fn the_example_is_a_configuration_that_explains_itself() {
    let example = fleetmend(&["check-config", "--example"]);
    assert!(example.status.success());
    let example = String::from_utf8(example.stdout).expect("UTF-8");
    Config::parse(&example, Path::new("/etc/fleetmend/fleetmend.toml")).expect("parses");
}

#[test]
fn a_wrong_key_is_named_and_nothing_starts() {
    let (_folder, config) = fleet();
    change(&config, "max_handshakes", "max_handshaks");
    let line =
        fs::read_to_string(&config).expect("a configuration").lines().position(|it| it.contains("max_handshaks"));
    let line = format!("line {}", line.expect("the line") + 1);
    for command in ["serve", "check-config", "migrate"] {
        let refused = fleetmend(&[command, "--config", text(&config)]);
        assert_eq!(refused.status.code(), Some(64), "{command}: {}", said(&refused));
        let said = said(&refused);
        assert!(said.contains("limits.agents.max_handshaks") && said.contains(&line), "{command}: {said}");
    }
}

#[test]
fn a_key_file_that_is_gone_is_named() {
    let (_folder, config) = fleet();
    let key = config.with_file_name("pki").join("order.key");
    fs::remove_file(&key).expect("removed");
    for command in ["serve", "check-config"] {
        let refused = fleetmend(&[command, "--config", text(&config)]);
        assert_eq!(refused.status.code(), Some(64), "{command}: {}", said(&refused));
        assert!(said(&refused).contains(text(&key)), "{command}: {}", said(&refused));
    }
}

#[test]
fn a_taken_port_is_named_with_its_key() {
    let (_folder, config) = fleet();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let written = fs::read_to_string(&config).expect("a configuration");
    let (head, operators) = written.split_once("[listen.operators]").expect("the table");
    let operators = operators.replacen("127.0.0.1:0", &addr, 1);
    fs::write(&config, format!("{head}[listen.operators]{operators}")).expect("written");

    let mut refused = serve(&config);
    assert_eq!(refused.wait(PATIENCE).expect("ended"), Some(74), "{}", refused.tail());
    for part in [&*addr, "another process has that port", "[listen.operators]"] {
        assert!(refused.tail().contains(part), "{part:?} is not in: {}", refused.tail());
    }
}

#[test]
fn a_database_that_does_not_answer_is_named_and_tried_again() {
    let (_folder, config) = fleet();
    let written = fs::read_to_string(&config).expect("a configuration");
    let url = written.lines().find(|line| line.starts_with("database_url = ")).expect("a URL").to_owned();
    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    change(&config, &url, &format!("database_url = \"postgres://fleetmend:hush@127.0.0.1:{port}/fleet\""));

    let mut waiting = serve(&config);
    let began = Instant::now();
    while waiting.tail().matches("trying again").count() < 2 {
        waiting.check_alive().expect("it keeps trying");
        assert!(began.elapsed() < PATIENCE, "{}", waiting.tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = waiting.tail();
    assert!(log.contains(&port.to_string()), "the database is not named: {log}");
    assert!(!log.contains("hush"), "the password is in the log: {log}");
    assert_eq!(waiting.terminate(PATIENCE).expect("ended"), Some(0), "{}", waiting.tail());
}
