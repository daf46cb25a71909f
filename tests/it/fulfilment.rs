//! Orders processed by others, or in the order of their users, by whole servers.

mod per_user;
