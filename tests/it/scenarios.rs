//! Scenario files: what the ladder decides in real situations, written so that an administrator can read and add them.
//! Only pure functions run here: matching, the state tables and the decision.

mod file;
mod world;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use fleetmend_domain::{
    catalogue::{Catalogue, Category},
    rules::RULES,
};

use file::Scenario;
use world::World;

fn files() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/scenarios");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the folder of scenarios is there")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a scenario can be read");
            (path, text)
        })
        .collect();
    files.sort();
    files
}

/// Runs a scenario; gives the rules it met.
fn run(path: &Path, text: &str) -> Result<BTreeSet<String>> {
    let scenario: Scenario = toml::from_str(text).with_context(|| format!("{} is no scenario", path.display()))?;
    let mut world = World::new(&scenario);
    let mut rules = BTreeSet::new();
    for (at, step) in scenario.step.iter().enumerate() {
        let place = || format!("{}, step {} ({})", path.display(), at + 1, scenario.name);
        world.step(step).with_context(place)?;
        rules.extend(world.rule().map(ToOwned::to_owned));
    }
    Ok(rules)
}

#[test]
fn every_scenario_goes_as_written() {
    let failed: Vec<_> =
        files().iter().filter_map(|(path, text)| run(path, text).err()).map(|error| format!("{error:#}")).collect();
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn there_are_at_least_sixty_and_no_two_alike() {
    let files = files();
    assert!(files.len() >= 60, "{}", files.len());
    let unnamed = |text: &str| -> String { text.lines().filter(|line| !line.starts_with("name =")).collect() };
    let contents: BTreeSet<_> = files.iter().map(|(_, text)| unnamed(text)).collect();
    assert_eq!(contents.len(), files.len(), "two scenarios say the same");
    let names: BTreeSet<_> = files.iter().map(|(_, text)| text.lines().next().unwrap_or_default()).collect();
    assert_eq!(names.len(), files.len(), "two scenarios have one name");
}

/// Rules that the state tables keep scenarios from meeting: an order without its proof leaves the incident verifying.
/// The ladder's own tests meet them.
const NOT_BY_SCENARIO: [&str; 1] = ["R4.unverified"];

#[test]
fn every_rule_is_met_by_a_scenario() {
    let met: BTreeSet<_> = files().iter().filter_map(|(path, text)| run(path, text).ok()).flatten().collect();
    let unmet: Vec<_> = RULES.iter().map(|rule| rule.id).filter(|id| !met.contains(*id)).collect();
    assert_eq!(unmet, NOT_BY_SCENARIO, "rules that no scenario meets");
}

#[test]
fn every_category_has_a_scenario() {
    let codes = files()
        .iter()
        .filter_map(|(_, text)| toml::from_str::<Scenario>(text).ok())
        .map(|it| it.code)
        .collect::<Vec<_>>();
    let met: BTreeSet<_> = codes.iter().map(|code| Catalogue::embedded().resolve(*code).category).collect();
    let unmet: Vec<_> = Category::ALL.iter().filter(|category| !met.contains(category)).collect();
    assert!(unmet.is_empty(), "no scenario starts with a code of {unmet:?}");
}

/// The runner itself must notice what is wrong.
#[test]
fn a_wrong_expectation_fails_with_file_and_step() -> Result<()> {
    let text = r#"
name = "wrong on purpose"
code = "0x80073712"
[[step]]
do = "failed"
expect = { rule = "R1.entry", action = "reset_components" }
"#;
    let error = run(Path::new("wrong.toml"), text).err().context("the wrong expectation passed")?;
    let told = format!("{error:#}");
    ensure!(told.contains("wrong.toml, step 1") && told.contains("reset_components"), "{told}");
    let checks_nothing = text.replace("rule = \"R1.entry\", ", "");
    let error = run(Path::new("nothing.toml"), &checks_nothing).err().context("an expectation of nothing passed")?;
    ensure!(format!("{error:#}").contains("expect its rule"), "{error:#}");
    let none_open =
        "name = \"no incident\"\ncode = \"0x80073712\"\n[[step]]\ndo = \"time\"\nexpect = { state = \"open\" }\n";
    ensure!(run(Path::new("none.toml"), none_open).is_err(), "the state of no incident passed");
    let misspelt = text.replace("action =", "akction =");
    ensure!(run(Path::new("misspelt.toml"), &misspelt).is_err(), "an unknown key passed");
    Ok(())
}
