//! Who may call which method. Deny by default: a method of the contract that is missing here stops the controller from
//! starting, and a path that is missing here is answered before anything looks at it.

use std::collections::BTreeSet;

use fleetmend_proto::DESCRIPTORS;
use prost::Message as _;
use prost_types::FileDescriptorSet;

/// What a caller must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing, on the enrolment listener: the message itself holds the proof.
    NoCert,
    /// A device certificate that is valid now.
    Device,
    /// A device certificate that may have expired a while ago.
    DeviceOrExpired,
}

/// Every method this controller answers.
pub const METHOD_POLICY: &[(&str, Policy)] = &[
    ("/fleetmend.v1.Enrollment/Enroll", Policy::NoCert),
    ("/fleetmend.v1.AgentService/Renew", Policy::DeviceOrExpired),
    ("/fleetmend.v1.AgentService/Report", Policy::Device),
    ("/fleetmend.v1.AgentService/Subscribe", Policy::Device),
    ("/fleetmend.v1.AgentService/UpdateOrder", Policy::Device),
    ("/fleetmend.v1.AgentService/Begin", Policy::Device),
    ("/grpc.health.v1.Health/Check", Policy::Device),
    ("/grpc.health.v1.Health/Watch", Policy::Device),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Policy::Device),
];

/// Proof that the table covers the contract: no server is built without it.
#[derive(Clone, Copy, Debug)]
pub struct MethodPolicy(());

/// The table and the contract differ: a mistake in the program, not of its user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyGap {
    #[error("method {0} has no entry in METHOD_POLICY: this build must not be used")]
    Missing(String),
    #[error("METHOD_POLICY names {0}, which the contract does not have: this build must not be used")]
    Stale(String),
    #[error("the built-in contract cannot be read: this build must not be used")]
    Unreadable,
}

impl MethodPolicy {
    /// Compares table and contract.
    ///
    /// # Errors
    /// A [`PolicyGap`]; then the process must not start.
    pub fn checked() -> Result<Self, PolicyGap> {
        compare(METHOD_POLICY, &contract()?).map(|()| Self(()))
    }

    /// The policy of a path; `None` is no.
    #[must_use]
    pub fn of(self, path: &str) -> Option<Policy> {
        METHOD_POLICY.iter().find(|(method, _)| *method == path).map(|(_, policy)| *policy)
    }
}

fn contract() -> Result<BTreeSet<String>, PolicyGap> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).map_err(|_| PolicyGap::Unreadable)?;
    let mut methods = BTreeSet::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    if methods.is_empty() { Err(PolicyGap::Unreadable) } else { Ok(methods) }
}

fn compare(table: &[(&str, Policy)], contract: &BTreeSet<String>) -> Result<(), PolicyGap> {
    let listed = |method: &String| table.iter().any(|(name, _)| name == method);
    if let Some(method) = contract.iter().find(|method| !listed(method)) {
        return Err(PolicyGap::Missing(method.clone()));
    }
    let ours = table.iter().map(|(name, _)| *name).filter(|name| name.starts_with("/fleetmend."));
    match ours.into_iter().find(|name| !contract.contains(*name)) {
        Some(name) => Err(PolicyGap::Stale(name.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_contract_has_a_policy() {
        let policy = MethodPolicy::checked().expect("complete");
        assert_eq!(contract().expect("readable").len(), 6);
        assert_eq!(policy.of("/fleetmend.v1.AgentService/Nonsense"), None);
    }

    #[test]
    fn an_expired_certificate_may_renew_and_nothing_else() {
        let open: Vec<_> = METHOD_POLICY.iter().filter(|(_, policy)| *policy == Policy::DeviceOrExpired).collect();
        assert_eq!(open, [&("/fleetmend.v1.AgentService/Renew", Policy::DeviceOrExpired)]);
        let open: Vec<_> = METHOD_POLICY.iter().filter(|(_, policy)| *policy == Policy::NoCert).collect();
        assert_eq!(open, [&("/fleetmend.v1.Enrollment/Enroll", Policy::NoCert)]);
    }

    #[test]
    fn a_forgotten_method_and_a_misspelt_one_stop_the_start() {
        let contract = contract().expect("readable");
        assert!(
            matches!(compare(&METHOD_POLICY[1..], &contract), Err(PolicyGap::Missing(name)) if name.ends_with("/Enroll"))
        );
        let mut misspelt = METHOD_POLICY.to_vec();
        misspelt.push(("/fleetmend.v1.AgentService/Reprot", Policy::Device));
        assert!(matches!(compare(&misspelt, &contract), Err(PolicyGap::Stale(name)) if name.ends_with("/Reprot")));
    }
}
