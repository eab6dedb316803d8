"""Protocol messages generated from gateway/protos by `make protos`; not edited by hand."""
