//! What the controller says about the rest of the world, and what this cell makes of it.
//!
//! [`mirror`] keeps the world at a revision (sans-IO), [`policies`] its policies, [`select`] says whose egress rules apply
//! to a container, [`egress`] and [`compile`] turn it all into map rows (pure), [`step`] what became different of it,
//! [`saved`] remembers the world over a restart. Nothing here speaks with the controller or with the kernel.

pub mod compile;
pub mod egress;
pub mod group;
pub mod mirror;
pub mod policies;
pub mod saved;
pub mod select;
pub mod step;
pub mod world;
