//! What this machine is: inventory, load, heat, firmware profiles.
