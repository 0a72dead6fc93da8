//! The example file and the table of keys in the documentation, both printed from the keys themselves.

use std::fmt::Write as _;

use super::{
    Config, DrainSettings, EnrollmentSettings, Key, Limits, OperatorLimits, read::PolicySettings, section::toml_of,
};

/// What `init` knows and an example can only guess.
pub(super) struct Filled {
    data_dir: String,
    fleet: String,
    database_url: Option<String>,
    names: Vec<String>,
    addresses: [String; 3],
}

impl Default for Filled {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/fleetmend".to_owned(),
            fleet: "00000000-0000-4000-8000-000000000000".to_owned(),
            database_url: None,
            names: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec(),
            addresses: ["127.0.0.1:7441", "127.0.0.1:7442", "127.0.0.1:7443"].map(str::to_owned),
        }
    }
}

impl Filled {
    pub(super) fn from_config(config: &Config) -> Self {
        let listen = &config.listen;
        Self {
            data_dir: config.data_dir.display().to_string(),
            fleet: config.fleet.to_string(),
            database_url: Some(config.database.expose().to_owned()),
            names: listen.names.clone(),
            addresses: [listen.enrollment, listen.agents, listen.operators].map(|addr| addr.to_string()),
        }
    }
}

struct Table {
    name: &'static str,
    help: &'static str,
    keys: Vec<Key>,
}

fn key(name: &'static str, default: String, help: &'static str) -> Key {
    Key { name, default, help }
}

fn tables(filled: &Filled) -> Vec<Table> {
    let addr = |at: usize| {
        vec![key("addr", toml_of(&filled.addresses[at]), "address and port; loopback unless you change it")]
    };
    let database = filled.database_url.clone();
    let database = database.unwrap_or_else(|| format!("sqlite://{}/controller.db", filled.data_dir));
    let file = |name, path: &str, help| key(name, toml_of(&format!("{}/{path}", filled.data_dir)), help);
    vec![
        Table {
            name: "",
            help: "",
            keys: vec![
                key("data_dir", toml_of(&filled.data_dir), "data folder; other people may not read it"),
                key("fleet", toml_of(&filled.fleet), "the fleet's id, made by `fleetmend init`; certificates bear it"),
                key("database_url", toml_of(&database), "sqlite://FILE, or postgres://USER@HOST/NAME"),
                key(
                    "database_url_file",
                    toml_of(&"database_url"),
                    "a file that holds the URL instead, for one with a password",
                ),
                file("packages", "packages", "vetted update packages for tier 5"),
            ],
        },
        Table {
            name: "listen",
            help: "Where people and agents reach the controller.",
            keys: vec![key(
                "names",
                toml_of(&filled.names),
                "names and addresses in the server certificate, for `fleetmend init`",
            )],
        },
        Table { name: "listen.enrollment", help: "Devices that join: TLS, with a token.", keys: addr(0) },
        Table { name: "listen.agents", help: "Enrolled devices: mutual TLS.", keys: addr(1) },
        Table { name: "listen.operators", help: "People and scripts: HTTPS, with a token.", keys: addr(2) },
        Table {
            name: "files",
            help: "Keys and certificates. Only the controller's user may read the keys.",
            keys: vec![
                file("agent_ca", "pki/agent_ca.pem", "online agent CA, then its root"),
                file("agent_ca_key", "pki/agent_ca.key", "key of the online agent CA"),
                file("server", "pki/server.pem", "server certificate, then its root"),
                file("server_key", "pki/server.key", "key of the server certificate"),
                file("order_key", "pki/order.key", "signs orders of tiers 1 to 5"),
            ],
        },
        Table {
            name: "limits.agents",
            help: "What one agent, and all together, may take.",
            keys: Limits::default().keys(),
        },
        Table { name: "limits.enrollment", help: "The same for devices that join.", keys: Limits::enrollment().keys() },
        Table {
            name: "limits.operators",
            help: "The same for people and scripts.",
            keys: OperatorLimits::default().keys(),
        },
        Table { name: "enrollment", help: "How fast devices may join.", keys: EnrollmentSettings::default().keys() },
        Table {
            name: "drain",
            help: "How agents are sent to another controller.",
            keys: DrainSettings::default().keys(),
        },
        Table {
            name: "policy",
            help: "What Fleetmend does by itself, and how far it goes.",
            keys: PolicySettings::default().keys(),
        },
    ]
}

pub(super) fn text(filled: &Filled) -> String {
    let mut text = String::from(
        "# Configuration of the Fleetmend controller. Every key is here with its default; leave out what you do not change.\n\
         # Check a changed file with `fleetmend check-config`. A wrong or unknown key is refused before a port opens.\n",
    );
    for table in tables(filled) {
        if table.name.is_empty() {
            text.push('\n');
        } else {
            let _ = write!(text, "\n# {}\n[{}]\n", table.help, table.name);
        }
        for key in table.keys {
            // Beside database_url it would be refused.
            let off = if key.name == "database_url_file" { "# " } else { "" };
            let _ = writeln!(text, "# {}\n{off}{} = {}", key.help, key.name, key.default);
        }
    }
    text
}

/// The part of `docs/configuration.md` that lists the keys.
#[cfg(test)]
pub(super) fn reference() -> String {
    let mut text = String::new();
    for table in tables(&Filled::default()) {
        let heading = if table.name.is_empty() { "Top level".to_owned() } else { format!("`[{}]`", table.name) };
        let _ = write!(text, "## {heading}\n\n");
        if !table.help.is_empty() {
            let _ = write!(text, "{}\n\n", table.help);
        }
        text.push_str("| key | default | meaning |\n|---|---|---|\n");
        for key in table.keys {
            let _ = writeln!(text, "| `{}` | `{}` | {} |", key.name, key.default, key.help.replace('|', "\\|"));
        }
        text.push('\n');
    }
    text
}
