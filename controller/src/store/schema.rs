//! The schema's versions, embedded: same names in `migrations/sqlite` and `migrations/postgres`.

/// One step of the schema.
pub(super) struct Migration {
    pub version: i64,
    pub name: &'static str,
    /// Oldest binary that can work on a database with this step.
    pub min_binary: &'static str,
    pub sqlite: &'static str,
    pub postgres: &'static str,
}

macro_rules! migration {
    ($version:literal, $name:literal, $min_binary:literal) => {
        Migration {
            version: $version,
            name: $name,
            min_binary: $min_binary,
            sqlite: include_str!(concat!("../../../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../../../migrations/postgres/", $name, ".sql")),
        }
    };
}

/// In order; only ever appended to.
pub(super) const MIGRATIONS: &[Migration] = &[migration!(1, "0001_initial", "0.1.0")];

/// The version this binary needs.
pub(super) fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |migration| migration.version)
}
