use std::path::Path;

use fleetmend_domain::policy::{Policy, Posture};
use fleetmend_proto::FleetId;

use super::*;

const FILE: &str = "/etc/fleetmend/fleetmend.toml";
const MINIMAL: &str = "data_dir = \"data\"\nfleet = \"6f9d3c1e-8f7e-4bd0-9d7e-1f1a4ad9e0aa\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new(FILE))
}

fn refusal(text: &str) -> String {
    parse(text).expect_err("should be refused").to_string()
}

#[test]
fn the_example_is_a_good_configuration_of_nothing_but_defaults() {
    let config = parse(&Config::example()).expect("the example parses");
    let fleet: FleetId = "00000000-0000-4000-8000-000000000000".parse().expect("an id");
    let plain = Config::new(Path::new("/var/lib/fleetmend"), fleet);
    assert_eq!(format!("{config:?}"), format!("{plain:?}"));
    assert_eq!(config.policy, Policy::default());
    assert_eq!(config.limits.enrollment, Limits::enrollment());
}

#[test]
fn what_init_writes_is_read_back_the_same() {
    let mut config = Config::new(Path::new("/srv/fm"), FleetId(uuid::Uuid::from_u128(7)));
    config.listen.names.push("fleetmend.example.com".to_owned());
    config.listen.agents = "0.0.0.0:9000".parse().expect("an address");
    config.database = DatabaseUrl::new("postgres://fm@db/fm");
    let again = parse(&config.file_text()).expect("parses");
    assert_eq!(format!("{again:?}"), format!("{config:?}"));
}

#[test]
fn every_key_stands_in_the_documentation() {
    let page = include_str!("../../../docs/configuration.md");
    assert!(
        page.contains(example::reference().trim_end()),
        "docs/configuration.md does not list the keys as they are; replace its tables by:\n{}",
        example::reference()
    );
}

#[test]
fn two_keys_are_enough_and_relative_paths_start_at_the_file() {
    let config = parse(MINIMAL).expect("parses");
    assert_eq!(config.data_dir, Path::new("/etc/fleetmend/data"));
    assert_eq!(config.database.expose(), "sqlite:///etc/fleetmend/data/controller.db");
    assert_eq!(config.files.order_key, Path::new("/etc/fleetmend/data/pki/order.key"));
    assert!(config.listen.agents.ip().is_loopback() && config.listen.operators.ip().is_loopback());
    assert_eq!(config.policy.posture, Posture::Observe);
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let text = format!("{MINIMAL}\n[limits.agents]\nmax_conections = 5\n");
    let said = refusal(&text);
    for part in [FILE, "line 5", "limits.agents.max_conections", "unknown field `max_conections`"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(refusal("datadir = \"x\"").contains("line 1, key \"datadir\""));
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_its_line() {
    let said = refusal(&format!("{MINIMAL}[limits.enrollment]\nhandshake_timeout = \"fast\"\n"));
    assert!(
        said.contains("line 4, key \"limits.enrollment.handshake_timeout\"") && said.contains("no duration"),
        "{said}"
    );
    let said = refusal(&format!("{MINIMAL}[policy]\nposture = \"brave\"\n"));
    assert!(said.contains("line 4, key \"policy.posture\"") && said.contains("observe, recommended, full"), "{said}");
    let said = refusal(&format!("{MINIMAL}[policy]\nwindows = [\"mon-fri 22:00-05:00\", \"nights\"]\n"));
    assert!(said.contains("line 4, key \"policy.windows") && said.contains("\"nights\" is no window"), "{said}");
    assert!(refusal(&format!("{MINIMAL}[listen.agents]\naddr = \"here\"\n")).contains("listen.agents.addr"));
}

#[test]
fn values_that_would_lift_a_limit_are_refused() {
    for (table, line, named) in [
        ("limits.agents", "handshake_timeout = \"0s\"", "handshake_timeout"),
        ("limits.agents", "max_concurrent_streams = 0", "max_concurrent_streams"),
        ("limits.enrollment", "max_frame = \"8KiB\"", "max_frame"),
        ("limits.agents", "stream_window = \"3000MiB\"", "stream_window"),
        ("limits.operators", "max_connections = 0", "max_connections"),
        ("limits.operators", "handshake_timeout = \"0s\"", "handshake_timeout"),
        ("limits.operators", "first_request_timeout = \"0s\"", "first_request_timeout"),
        ("limits.operators", "request_timeout = \"0s\"", "request_timeout"),
        ("limits.operators", "max_body = \"0\"", "max_body"),
        ("limits.operators", "max_header_list = \"0\"", "max_header_list"),
        ("drain", "reconnect_window = \"2m\"", "reconnect_window"),
        ("drain", "age_min = \"13h\"", "age_min"),
        ("enrollment", "per_second = 0", "per_second"),
        ("listen", "names = []", "names"),
    ] {
        let said = refusal(&format!("{MINIMAL}[{table}]\n{line}\n"));
        assert!(said.contains(named) && said.contains(table), "{said}");
    }
}

#[test]
fn a_missing_fleet_or_folder_and_a_foreign_database_are_refused() {
    assert!(refusal("data_dir = \"x\"").contains("\"fleet\""));
    assert!(refusal("fleet = \"6f9d3c1e-8f7e-4bd0-9d7e-1f1a4ad9e0aa\"").contains("\"data_dir\""));
    assert!(refusal(&format!("{MINIMAL}database_url = \"mysql://x\"")).contains("sqlite:// or postgres://"));
    let both = format!("{MINIMAL}database_url = \"sqlite://a\"\ndatabase_url_file = \"b\"");
    assert!(refusal(&both).contains("keep one of them"));
}

#[test]
fn a_file_that_is_not_there_is_named_with_what_to_do() {
    let said = Config::load(Path::new("/nowhere/fleetmend.toml")).expect_err("no file").to_string();
    assert!(said.contains("/nowhere/fleetmend.toml") && said.contains("fleetmend init"), "{said}");
}

#[test]
fn a_database_url_may_come_from_its_own_file_and_shows_no_password() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("url"), "postgres://fm:hush@db:5432/fleet\n").expect("written");
    let text = format!("{MINIMAL}database_url_file = \"url\"\n");
    let config = Config::parse(&text, &folder.path().join("fleetmend.toml")).expect("parses");
    assert_eq!(config.database.expose(), "postgres://fm:hush@db:5432/fleet");
    assert!(!config.database.is_sqlite());
    assert!(!format!("{config:?}").contains("hush"));
    assert_eq!(config.database.to_string(), "postgres://fm@db:5432/fleet");
    assert!(!DatabaseUrl::new("postgres://db/fleet?user=fm&password=hush").to_string().contains("hush"));
}
