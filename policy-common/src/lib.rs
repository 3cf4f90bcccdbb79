//! Laid out; its modules follow.
#![no_std]
