//! `fleetmend token new|list|revoke`: enrolment tokens for devices and API tokens for people and programs. Works on the
//! controller's own database: whoever may read its configuration may hand out access.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use fleetmend_proto::clock::wall_now;
use serde::Serialize;
use uuid::Uuid;

use super::{
    exit::{Code, Failure},
    local::Local,
    output::{Format, Output, line, or_dash, table, time},
};
use crate::{
    http::Role,
    secret,
    store::{ApiToken, EnrollToken, NewApiToken, NewToken, Store, StoreError},
};

const DAY: Duration = Duration::from_hours(24);
const ENROLLMENT_TTL: Duration = Duration::from_mins(10);
const MAX_ENROLLMENT_TTL: Duration = Duration::from_hours(30 * 24);
const API_TTL: Duration = Duration::from_hours(90 * 24);
const MAX_TEXT: usize = 64;

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token; it is shown once
    #[command(after_help = NEW_EXAMPLES)]
    New(New),
    /// All tokens, without their secrets
    List(List),
    /// End a token; devices that it enrolled stay
    Revoke(Revoke),
}

const NEW_EXAMPLES: &str = "\
Examples:
  fleetmend token new --uses 200 --ttl 2h --ring canary            for devices: 200 may enrol within 2 hours
  fleetmend token new --operator --name alice                      for a person: the API, 90 days
  fleetmend token new --operator --role viewer --name grafana --ttl 30d

Standard output holds the token alone.";

#[derive(Debug, Args)]
pub struct New {
    /// How many devices may enrol with it
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "operator")]
    uses: u32,
    /// How long it is good for [default: 10m, at most 30d; with --operator 90d, which is also the most]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// The ring its devices begin in
    #[arg(long, default_value = "default", value_name = "RING", value_parser = plain, conflicts_with = "operator")]
    ring: String,
    /// Its devices need no approval: no protection against a token that leaked
    #[arg(long, conflicts_with = "operator")]
    preapproved: bool,
    /// What it is for, for those who read the list
    #[arg(long, default_value = "", value_name = "TEXT", value_parser = plain, conflicts_with = "operator")]
    note: String,
    /// Make a token for the operators' API instead
    #[arg(long, requires = "name")]
    operator: bool,
    /// What its bearer may do: viewer, operator or admin
    #[arg(long, default_value = "operator", value_name = "ROLE", value_parser = role, requires = "operator")]
    role: Role,
    /// Whom it stands for, in logs and timelines
    #[arg(long, value_name = "NAME", value_parser = named, requires = "operator")]
    name: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    local: Local,
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    local: Local,
}

#[derive(Debug, Args)]
pub struct Revoke {
    /// The token's id, as `token list` shows it
    id: Uuid,
    #[command(flatten)]
    local: Local,
}

impl Token {
    /// # Errors
    /// 64 for the configuration, 66 for an unknown id, 69 for the database.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::New(new) => new.run(),
            Self::List(list) => list.run(),
            Self::Revoke(revoke) => revoke.run(),
        }
    }
}

/// A new token, secret included: the only time it is shown.
#[derive(Debug, Serialize)]
struct Made {
    id: Uuid,
    kind: &'static str,
    token: String,
    expires_at: DateTime<Utc>,
}

impl New {
    fn run(self) -> Result<(), Failure> {
        let made = if self.operator { self.make_api_token()? } else { self.make_enrollment_token()? };
        if self.output.output == Format::Json {
            return self.output.print(&made, |_| String::new());
        }
        eprintln!("{} token {}, good until {}; it is not shown again:", made.kind, made.id, time(made.expires_at));
        line(&made.token)
    }

    fn make_enrollment_token(&self) -> Result<Made, Failure> {
        let now = wall_now();
        let expires_at = expiry(now, self.ttl, ENROLLMENT_TTL, MAX_ENROLLMENT_TTL)?;
        let token = secret::new(secret::Kind::Enrollment);
        let row = NewToken {
            hash: secret::hash(&token),
            uses: self.uses,
            expires_at,
            ring: self.ring.clone(),
            preapproved: self.preapproved,
            created_by: this_person(),
            note: self.note.clone(),
            now,
        };
        let id = self.local.with_store(|store| async move { store.token_insert(row).await })?;
        Ok(Made { id, kind: "enrollment", token, expires_at })
    }

    fn make_api_token(&self) -> Result<Made, Failure> {
        let now = wall_now();
        let expires_at = expiry(now, self.ttl, API_TTL, API_TTL)?;
        let token = secret::new(secret::Kind::Api);
        let row = NewApiToken {
            hash: secret::hash(&token),
            name: self.name.clone().unwrap_or_default(),
            role: self.role.word().to_owned(),
            expires_at,
            created_by: this_person(),
            now,
        };
        let id = self.local.with_store(|store| async move { store.api_token_insert(row).await })?;
        Ok(Made { id, kind: "api", token, expires_at })
    }
}

/// A token in the list. What does not belong to its kind is null.
#[derive(Debug, Serialize)]
struct Row {
    id: Uuid,
    kind: &'static str,
    /// `active`, `expired`, `used_up` or `revoked`.
    state: &'static str,
    name: Option<String>,
    role: Option<String>,
    ring: Option<String>,
    uses: Option<i64>,
    uses_left: Option<i64>,
    preapproved: Option<bool>,
    note: Option<String>,
    expires_at: DateTime<Utc>,
    created_by: String,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
}

impl Row {
    fn of_api(token: ApiToken, now: DateTime<Utc>) -> Self {
        Self {
            id: token.id,
            kind: "api",
            state: state(token.revoked_at, token.expires_at, 1, now),
            name: Some(token.name),
            role: Some(token.role),
            ring: None,
            uses: None,
            uses_left: None,
            preapproved: None,
            note: None,
            expires_at: token.expires_at,
            created_by: token.created_by,
            created_at: token.created_at,
            revoked_at: token.revoked_at,
        }
    }

    fn of_enrollment(token: EnrollToken, now: DateTime<Utc>) -> Self {
        Self {
            id: token.id,
            kind: "enrollment",
            state: state(token.revoked_at, token.expires_at, token.uses_left, now),
            name: None,
            role: None,
            ring: Some(token.ring),
            uses: Some(token.uses),
            uses_left: Some(token.uses_left),
            preapproved: Some(token.preapproved),
            note: Some(token.note),
            expires_at: token.expires_at,
            created_by: token.created_by,
            created_at: token.created_at,
            revoked_at: token.revoked_at,
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let (api, enrollment) = self
            .local
            .with_store(|store| async move { Ok((store.api_token_list().await?, store.token_list().await?)) })?;
        let now = wall_now();
        let mut rows: Vec<_> = api.into_iter().map(|token| Row::of_api(token, now)).collect();
        rows.extend(enrollment.into_iter().map(|token| Row::of_enrollment(token, now)));
        self.output.print(&rows, |rows| {
            table(
                &["ID", "KIND", "STATE", "FOR", "ROLE", "RING", "USES LEFT", "EXPIRES", "MADE BY"],
                rows.iter().map(|row| {
                    [
                        row.id.to_string(),
                        row.kind.to_owned(),
                        row.state.to_owned(),
                        or_dash(row.name.clone().or_else(|| row.note.clone()).filter(|text| !text.is_empty())),
                        or_dash(row.role.clone()),
                        or_dash(row.ring.clone()),
                        or_dash(row.uses_left),
                        time(row.expires_at),
                        row.created_by.clone(),
                    ]
                }),
            )
        })
    }
}

impl Revoke {
    fn run(self) -> Result<(), Failure> {
        let (id, by) = (self.id, this_person());
        self.local.with_store(|store| async move { revoke(&store, id, &by).await }).map_err(|failure| {
            if failure.code() == Code::NotFound {
                Failure::new(Code::NotFound, format_args!("there is no token {id}")).hint("see `fleetmend token list`")
            } else {
                failure
            }
        })?;
        line(&format!("token {id} is revoked"))
    }
}

/// Ids of both kinds come from one space, so that one of the two knows it.
async fn revoke(store: &Store, id: Uuid, by: &str) -> Result<(), StoreError> {
    match store.token_revoke(id, by, wall_now()).await {
        Err(StoreError::NotFound { .. }) => store.api_token_revoke(id, by, wall_now()).await,
        ended => ended,
    }
}

fn state(revoked: Option<DateTime<Utc>>, expires: DateTime<Utc>, uses_left: i64, now: DateTime<Utc>) -> &'static str {
    if revoked.is_some() {
        "revoked"
    } else if expires <= now {
        "expired"
    } else if uses_left == 0 {
        "used_up"
    } else {
        "active"
    }
}

fn expiry(
    now: DateTime<Utc>,
    ttl: Option<Duration>,
    usual: Duration,
    most: Duration,
) -> Result<DateTime<Utc>, Failure> {
    let ttl = ttl.unwrap_or(usual);
    if ttl.is_zero() || ttl > most {
        let days = most.as_secs() / DAY.as_secs();
        return Err(Failure::new(Code::Usage, format_args!("--ttl must be above 0 and at most {days}d")));
    }
    Ok(now + ttl)
}

/// Who sits at this machine, for the record. Not proof of anything: whoever gets here is trusted already.
fn this_person() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    format!("{}@console", name.as_deref().and_then(|name| plain(name).ok()).unwrap_or_else(|| "somebody".to_owned()))
}

fn role(text: &str) -> Result<Role, String> {
    Role::from_word(text).ok_or_else(|| {
        let known: Vec<_> = Role::ALL.iter().map(|role| role.word()).collect();
        format!("expected one of {}", known.join(", "))
    })
}

fn named(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { plain(text) }
}

fn plain(text: &str) -> Result<String, String> {
    if text.len() > MAX_TEXT {
        Err(format!("must be at most {MAX_TEXT} bytes long"))
    } else if text.chars().any(char::is_control) {
        Err("must hold no control character".to_owned())
    } else {
        Ok(text.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_token_lives_within_its_bounds() {
        let now = wall_now();
        let of = |ttl| expiry(now, ttl, ENROLLMENT_TTL, MAX_ENROLLMENT_TTL).map_err(|failure| failure.code());
        assert_eq!(of(None), Ok(now + TimeDelta::minutes(10)));
        assert_eq!(of(Some(DAY)), Ok(now + TimeDelta::days(1)));
        assert_eq!(of(Some(Duration::ZERO)), Err(Code::Usage));
        assert_eq!(of(Some(MAX_ENROLLMENT_TTL + Duration::from_secs(1))), Err(Code::Usage));
    }

    #[test]
    fn the_list_says_why_a_token_no_longer_works() {
        let now = wall_now();
        let (past, later) = (now - TimeDelta::seconds(1), now + TimeDelta::seconds(1));
        let cases = [
            (None, later, 1, "active"),
            (None, later, 0, "used_up"),
            (None, past, 1, "expired"),
            (Some(past), later, 1, "revoked"),
        ];
        for (revoked, expires, uses_left, word) in cases {
            assert_eq!(state(revoked, expires, uses_left, now), word);
        }
    }
}
