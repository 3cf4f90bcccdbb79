//! Plans, carried out operation by operation in memory.

mod drift;
mod full;
mod quick;
mod random;
mod steps;
mod world;
