//! What a token's bearer may do.

use fleetmend_proto::words;

words!(
    /// Kept as its word with the token. Ordered by nothing: the route table names roles one by one.
    Role {
        /// Looks at everything, changes nothing.
        Viewer = "viewer",
        /// Asks for remedies, dismisses incidents, lets devices in and throws them out.
        Operator = "operator",
        /// Hands out access; lets devices in and throws them out; orders nothing.
        Admin = "admin",
    }
);
