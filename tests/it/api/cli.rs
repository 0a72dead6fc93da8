//! The binary `fleetmend`: offline, against an API, and against everything that can be wrong.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output},
};

use fleetmend_tests::process::binary;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde_json::{Value, json};

use super::fixture::Fleet;

/// Runs the command in an empty folder with an environment of its own.
fn fleetmend(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a folder to run in");
    Command::new(binary("fleetmend").expect("the binary is built"))
        .args(args)
        .current_dir(dir.path())
        .env_clear()
        .output()
        .expect("the command runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("standard output is UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("standard error is UTF-8")
}

fn json_of(output: &Output) -> Value {
    assert_eq!(code(output), 0, "{}", err(output));
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON document")
}

#[test]
fn the_catalogue_answers_offline_in_every_spelling() {
    let list = json_of(&fleetmend(&["catalog", "list", "--output", "json"]));
    assert!(list.as_array().is_some_and(|rows| rows.len() > 400));
    let keys =
        ["code", "symbol", "category", "entry_tier", "max_tier", "retryable", "needs_reboot", "advice", "source"];
    let entry = json_of(&fleetmend(&["catalog", "show", "0x80070103", "--output", "json"]));
    let named: Vec<_> = entry.as_object().expect("an object").keys().map(String::as_str).collect();
    assert!(keys.iter().all(|key| named.contains(key)) && named.len() == keys.len(), "{named:?}");
    assert_eq!((&entry["entry_tier"], &entry["category"]), (&json!(0), &json!("already_installed")));
    for spelling in ["80070103", "-2147024637", "2147942659", "0X80070103", "0x80070103 - 0x20017"] {
        assert_eq!(json_of(&fleetmend(&["catalog", "show", spelling, "-o", "json"])), entry, "{spelling}");
    }
    let people = json_of(&fleetmend(&["catalog", "show", "0x80070070", "-o", "json"]));
    assert_eq!((&people["entry_tier"], &people["max_tier"]), (&Value::Null, &Value::Null));
    let table = out(&fleetmend(&["catalog", "show", "0x80073712"]));
    assert!(table.contains("tier 3 (RepairImage)") && table.contains("tier 6 (ResetPc)"), "{table}");
}

#[test]
fn what_is_wrong_has_its_own_exit_code_and_says_what_to_do() {
    let id = "8f14e45f-ceea-467f-a8d4-3f5e1f0c2b11";
    let url = "https://127.0.0.1:1";
    let cases: &[(&[&str], i32, &str)] = &[
        (&["catalog", "show", "hello"], 64, "expected a form like 0x80070103"),
        (&["catalog", "show", "0x123456789"], 64, "is not an HRESULT"),
        (&["catalog", "show"], 64, "<CODE>"),
        (&["catalog", "show", "0xDEADBEEF", "-o", "json"], 66, "enters at tier 1 (Retry)"),
        (&["catalog", "list", "--category", "weather"], 64, "disk_space"),
        (&["catalog", "list", "--output", "xml"], 64, "json"),
        (&["catalogue"], 64, "catalog"),
        (&[], 64, "Usage"),
        (&["device", "show", "not-an-id", "--url", url], 64, "<DEVICE>"),
        (&["remediate", id, "--tier", "7", "--url", url], 64, "expected 1 to 6"),
        (&["device", "list"], 64, "--url and --token-file"),
        (&["device", "list", "--config", "/nonexistent/fleetmend.toml"], 64, "/nonexistent/fleetmend.toml"),
        (&["device", "list", "--url", "http://fleet.example.com", "--token-file", "t"], 64, "token"),
        (&["device", "list", "--url", url, "--token-file", "/nonexistent"], 64, "/nonexistent"),
        (&["device", "approve", "--url", url], 64, "--serials"),
        (&["device", "approve", "--serials", "/nonexistent", "--url", url], 64, "/nonexistent"),
        (&["order", "list", "--state", "gone", "--url", url], 64, "queued"),
        (&["token", "new", "--operator"], 64, "--name"),
        (&["token", "new", "--ttl", "soon"], 64, "--ttl"),
        (&["token", "list"], 64, "fleetmend init"),
        (&["migrate"], 64, "fleetmend init"),
    ];
    for (args, expected, says) in cases {
        let output = fleetmend(args);
        assert_eq!(code(&output), *expected, "{args:?}: {}", err(&output));
        assert!(err(&output).contains(says), "{args:?} does not say {says:?}: {}", err(&output));
        assert!(output.stdout.is_empty(), "{args:?} printed to standard output: {}", out(&output));
    }
    let help = fleetmend(&["--help"]);
    assert_eq!(code(&help), 0);
    for code in ["64", "65", "66", "69", "77"] {
        assert!(out(&help).contains(&format!("  {code}  ")), "--help does not explain {code}");
    }
}

/// The fleet's API on loopback, in the clear (which the command allows for this machine only).
struct Server {
    fleet: Fleet,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let fleet = Fleet::new().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the port");
        let router = fleet.router();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = TowerToHyperService::new(router.clone());
                tokio::spawn(async move {
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { fleet, address, dir: tempfile::tempdir().expect("a folder for tokens") }
    }

    async fn run(&self, token: &str, args: &[&str]) -> Output {
        let file = self.token_file(token);
        let url = format!("http://{}", self.address);
        let mut all: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        all.extend(["--url".to_owned(), url, "--token-file".to_owned(), file.display().to_string()]);
        tokio::task::spawn_blocking(move || fleetmend(&all.iter().map(String::as_str).collect::<Vec<_>>()))
            .await
            .expect("the command ends")
    }

    fn token_file(&self, token: &str) -> PathBuf {
        let file = self.dir.path().join("token");
        std::fs::write(&file, format!("{token}\n")).expect("the token is written");
        file
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_day_on_the_command_line() {
    let server = Server::start().await;
    let fleet = &server.fleet;
    let device = fleet.device("PC-1").await;
    let quarantined = fleet.quarantined("PC-2").await.to_string();
    let incident = fleet.failure(device, 1, 5_124_010).await.to_string();
    let order = fleet.decide().await[0].to_string();
    let device = device.to_string();
    let run = async |args: &[&str]| server.run(&fleet.operator, args).await;

    let devices = json_of(&run(&["device", "list", "-o", "json"]).await);
    assert_eq!(devices.as_array().map(Vec::len), Some(2));
    assert_eq!(json_of(&run(&["device", "list", "--name", "PC-2", "-o", "json"]).await)[0]["id"], quarantined);
    let one = json_of(&run(&["device", "list", "--limit", "1", "-o", "json"]).await);
    assert_eq!(one.as_array().map(Vec::len), Some(1));
    assert_eq!(json_of(&run(&["device", "show", &device, "-o", "json"]).await)["open_incidents"][0]["id"], incident);
    let incidents = json_of(&run(&["incident", "list", "--open", "--code", "-2147010798", "-o", "json"]).await);
    assert_eq!(incidents[0]["id"], incident);
    let story = out(&run(&["incident", "show", &incident]).await);
    for word in ["outcome", "decision", "order repair_image (R", "KB5124010", "0x80073712"] {
        assert!(story.contains(word), "{word} is missing in\n{story}");
    }
    assert_eq!(json_of(&run(&["order", "show", &order, "-o", "json"]).await)["state"], "queued");
    assert_eq!(json_of(&run(&["order", "list", "--tier", "3", "-o", "json"]).await)[0]["id"], order);
    assert_eq!(json_of(&run(&["summary", "-o", "json"]).await)["devices"]["active"], 1);

    let approved = run(&["device", "approve", &quarantined]).await;
    assert!(out(&approved).contains("is active"), "{}", err(&approved));
    let serials = server.dir.path().join("serials.txt");
    let lines: Vec<_> = (0..1201).map(|number| format!("SN-{number:05}")).collect();
    std::fs::write(&serials, lines.join("\n")).expect("the serials are written");
    let approved = run(&["device", "approve", "--serials", &serials.display().to_string(), "-o", "json"]).await;
    assert_eq!(json_of(&approved)["expected"].as_array().map(Vec::len), Some(1201), "sent in parts, all kept");

    assert_eq!(json_of(&run(&["remediate", &device, "--now", "-o", "json"]).await)["incidents"][0], incident);
    let taken_back = run(&["order", "cancel", &order, "--reason", "exam week"]).await;
    assert!(out(&taken_back).contains("is cancelled"), "{}", err(&taken_back));
    assert!(out(&run(&["incident", "dismiss", &incident, "--reason", "retired"]).await).contains("is dismissed"));
    let story = out(&run(&["incident", "show", &incident]).await);
    assert!(story.contains(": exam week") && story.contains(": retired"), "{story}");
    let again = run(&["incident", "dismiss", &incident]).await;
    assert_eq!(code(&again), 65, "{}", err(&again));
    let banned = run(&["device", "ban", &device, "--reason", "stolen"]).await;
    assert!(out(&banned).contains("is banned"), "{}", err(&banned));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_refuses_decides_the_exit_code() {
    let server = Server::start().await;
    let fleet = &server.fleet;
    let id = fleet.device("PC-1").await.to_string();
    let unknown = "8f14e45f-ceea-467f-a8d4-3f5e1f0c2b11";
    let cases = [
        (&fleet.viewer, vec!["device", "ban", &id], 77),
        (&fleet.admin, vec!["remediate", &id], 77),
        (&fleet.expired, vec!["device", "list"], 77),
        (&fleet.revoked, vec!["summary"], 77),
        (&fleet.viewer, vec!["device", "show", unknown], 66),
        (&fleet.viewer, vec!["incident", "show", unknown], 66),
        (&fleet.operator, vec!["remediate", &id], 65),
    ];
    for (token, args, expected) in cases {
        let output = server.run(token, &args).await;
        assert_eq!(code(&output), expected, "{args:?}: {}", err(&output));
        assert!(err(&output).starts_with("error: ") && output.stdout.is_empty(), "{args:?}: {}", err(&output));
    }
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", nobody.local_addr().expect("the port"));
    drop(nobody);
    let file = server.token_file(&fleet.viewer).display().to_string();
    let gone = fleetmend(&["summary", "--url", &url, "--token-file", &file]);
    assert_eq!(code(&gone), 69, "{}", err(&gone));
    assert!(err(&gone).contains(&url) && err(&gone).contains("fleetmend serve"), "{}", err(&gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_devices_call_themselves_cannot_steer_a_terminal() {
    let server = Server::start().await;
    let name = "PC\u{1b}[2J\u{9b}31m\u{202e}cod.exe\nadmin";
    let device = server.fleet.device(name).await.to_string();
    for args in [vec!["device", "list"], vec!["device", "show", &device], vec!["device", "list", "-o", "json"]] {
        let output = server.run(&server.fleet.viewer, &args).await;
        assert_eq!(code(&output), 0, "{}", err(&output));
        let text = out(&output);
        let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(bad, None, "{args:?} printed {text:?}");
    }
    let list = server.run(&server.fleet.viewer, &["device", "list", "-o", "json"]).await;
    assert_eq!(json_of(&list)[0]["name"], name, "JSON keeps the name as it is");
}
