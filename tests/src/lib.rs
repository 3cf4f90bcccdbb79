//! The project's own test bed; each module says what it is for and what it may rely on.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod fuzz;
pub mod generate;
pub mod lab;
pub mod reference;
