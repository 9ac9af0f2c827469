//! Other implementations read and write the same tables: what they build is read here, what is built here
//! they read, and both must find the same behind every address.

mod aarch64;
mod io;
mod pool;
mod x86_64;
