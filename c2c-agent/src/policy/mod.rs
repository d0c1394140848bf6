//! What the controller says about the rest of the world, and what this cell makes of it.
//!
//! [`mirror`] keeps the world at a revision (sans-IO), [`compile`] turns it into map rows (pure), [`saved`] remembers it
//! over a restart. Nothing here speaks with the controller or with the kernel.

pub mod compile;
pub mod mirror;
pub mod saved;
pub mod world;
