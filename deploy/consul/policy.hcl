# All that Pilotlight needs of Consul, with the prefix "pilotlight":
#
#   consul acl policy create -name pilotlight -rules @deploy/consul/policy.hcl
#
# Agents register backends under their models' names, or all under consul.service: write may be narrowed to those names,
# "pilotlight-agent", "pilotlight-edge" and "pilotlight-lock". Edges that have no backends of their own write the last two only. Any service
# may hold backends, so all are read.
service_prefix "" {
  policy = "write"
}

# What stands on a node counts with the services there.
node_prefix "" {
  policy = "read"
}

# Live models and keys are read, locks, history and pins are written, and the keys of services are touched when these change.
key_prefix "pilotlight/" {
  policy = "write"
}

# Locks are held by sessions.
session_prefix "" {
  policy = "write"
}
