//! Keeps the contract.

#![no_std]

#[path = "services.rs"]
mod services;
