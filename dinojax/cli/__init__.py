"""The command `dinojax`; only this package prints, reads flags and exits."""
