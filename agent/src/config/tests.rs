use std::{error::Error as _, fs};

use super::*;

/// A folder that holds a server root.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).expect("a root");
    fs::write(folder.path().join("server-root.pem"), root.pem()).expect("write");
    folder
}

fn parsed(text: &str) -> Result<Config, ConfigError> {
    let folder = folder();
    Config::parse(&folder.path().join("agent.toml"), text)
}

fn refused(text: &str) -> String {
    let error = parsed(text).expect_err("taken");
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn the_example_is_a_config_and_shows_the_defaults() {
    let folder = folder();
    let path = folder.path().join("agent.toml");
    let config = Config::parse(&path, EXAMPLE).expect("the example as it is printed");
    assert_eq!(config.data_dir, folder.path().join("data"));
    let short: String = EXAMPLE.split("[policy]").next().expect("text").to_owned();
    let defaults = Config::parse(&path, &short).expect("the example without its tables");
    assert_eq!(config.link, defaults.link);
    assert_eq!(config.policy, defaults.policy);
    assert_eq!(config.detect_interval, defaults.detect_interval);
    assert_eq!(config.condition_interval, defaults.condition_interval);
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let text = format!("colour = 3\n{EXAMPLE}");
    let said = refused(&text);
    assert!(said.contains("line 1") && said.contains("`colour`"), "{said}");
    let text = EXAMPLE.replace("[detect]\n", "[detect]\nhaste = true\n");
    let line = text.lines().position(|line| line.starts_with("haste")).expect("is there") + 1;
    let said = refused(&text);
    assert!(said.contains(&format!("line {line}:")) && said.contains("`haste`"), "{said}");
}

#[test]
fn each_bad_value_is_named() {
    let cases = [
        ("interval = \"5m\"", "interval = \"soon\"", "\"soon\" is no duration"),
        ("interval = \"5m\"", "interval = \"0s\"", "detect.interval"),
        ("backoff_cap = \"300s\"", "backoff_cap = \"1ms\"", "link.backoff_cap"),
        ("max_tier = 5", "max_tier = 7", "not a tier"),
        ("https://fleetmend.example.com:7444", "http://fleetmend.example.com:7444", "no controller address"),
        ("6f0c1d9e-0d5c-4f0e-9a51-2f7a3f1a0b11", "mine", "fleet"),
        ("server-root.pem", "absent.pem", "absent.pem"),
        ("server_root = \"server-root.pem\"", "", "missing field `server_root`"),
    ];
    for (from, to, expected) in cases {
        let text = EXAMPLE;
        assert!(text.contains(from), "the example has no {from:?}");
        let said = refused(&text.replace(from, to));
        assert!(said.contains(expected), "{to:?} gave {said}");
    }
}

#[test]
fn order_keys_are_needed_and_checked() {
    let text = EXAMPLE;
    let line = text.lines().find(|line| line.starts_with("order_keys")).expect("is there");
    assert!(refused(&text.replace(line, "order_keys = []")).contains("order_keys"));
    assert!(refused(&text.replace(line, "order_keys = [\"x\"]")).contains("name+keyid+base64"));
}

#[test]
fn a_server_root_that_is_no_certificate_is_refused() {
    let folder = folder();
    let path = folder.path().join("agent.toml");
    fs::write(folder.path().join("server-root.pem"), "hello").expect("write");
    let error = Config::parse(&path, EXAMPLE).expect_err("taken");
    assert!(error.source().expect("has a source").to_string().contains("holds no certificate"));
}
