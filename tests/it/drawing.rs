//! Compares the state diagrams in `ARCHITECTURE.md` with the tables they draw, both ways.

use std::collections::BTreeSet;

use fleetmend_domain::{
    drawing::{self, Edge},
    incident, order,
};

const PAGE: &str = include_str!("../../ARCHITECTURE.md");

#[test]
fn the_incident_drawing_is_the_table() {
    let ends: Vec<_> =
        drawing::incident_states().iter().filter(|state| state.is_ended()).map(|state| state.name().word()).collect();
    compare("### Incident", incident::StateName::Open.word(), &drawing::incident_edges(), &ends);
}

#[test]
fn the_order_drawing_is_the_table() {
    let ends: Vec<_> = order::State::ALL.iter().filter(|state| state.is_final()).map(|state| state.word()).collect();
    compare("### Order", order::State::Queued.word(), &drawing::order_edges(), &ends);
}

#[test]
fn a_drawing_with_a_wrong_edge_is_noticed() {
    let drawn = parse("stateDiagram-v2\n    [*] --> a\n    a --> b: x, y\n    b --> [*]\n");
    assert_eq!(drawn.edges.len(), 2);
    assert_eq!(drawn.starts, BTreeSet::from(["a".to_owned()]));
    assert_eq!(drawn.ends, BTreeSet::from(["b".to_owned()]));
    assert_ne!(drawn.edges, BTreeSet::from([("a".to_owned(), "x".to_owned(), "b".to_owned())]));
}

fn compare(heading: &str, start: &str, table: &BTreeSet<Edge>, ends: &[&str]) {
    let drawn = parse(block_under(heading));
    let missing: Vec<_> = table.difference(&drawn.edges).collect();
    let invented: Vec<_> = drawn.edges.difference(table).collect();
    let wanted = drawing::mermaid(start, table, ends);
    assert!(
        missing.is_empty() && invented.is_empty(),
        "{heading} of ARCHITECTURE.md\n  lacks {missing:?}\n  and has no table row for {invented:?}\nit should be:\n{wanted}"
    );
    assert_eq!(drawn.starts, BTreeSet::from([start.to_owned()]), "{heading}");
    assert_eq!(drawn.ends, ends.iter().map(|end| (*end).to_owned()).collect(), "{heading}");
}

fn block_under(heading: &str) -> &'static str {
    let (_, after) = PAGE.split_once(heading).expect("ARCHITECTURE.md has the heading");
    let (_, block) = after.split_once("```mermaid\n").expect("a mermaid block follows the heading");
    block.split_once("```").expect("the block ends").0
}

struct Drawn {
    edges: BTreeSet<Edge>,
    starts: BTreeSet<String>,
    ends: BTreeSet<String>,
}

fn parse(text: &str) -> Drawn {
    let mut drawn = Drawn { edges: BTreeSet::new(), starts: BTreeSet::new(), ends: BTreeSet::new() };
    for line in text.lines().map(str::trim).filter(|line| line.contains("-->")) {
        let (from, rest) = line.split_once(" --> ").expect("an arrow has two sides");
        match rest.split_once(": ") {
            Some((to, events)) => {
                for event in events.split(", ") {
                    let edge = (from.to_owned(), event.to_owned(), to.to_owned());
                    assert!(drawn.edges.insert(edge), "drawn twice: {line}");
                }
            }
            None if from == "[*]" => {
                drawn.starts.insert(rest.to_owned());
            }
            None => {
                assert_eq!(rest, "[*]", "an arrow without an event: {line}");
                drawn.ends.insert(from.to_owned());
            }
        }
    }
    drawn
}
