"""Whether dinojax works on this machine; nothing here prints."""
