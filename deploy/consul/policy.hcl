# All that Pilotlight needs of Consul, under the prefix "pilotlight" and with the default names of services.
# consul acl policy create -name pilotlight -rules @deploy/consul/policy.hcl

# Discovery: any service may hold backends.
service_prefix "" {
  policy = "read"
}
node_prefix "" {
  policy = "read"
}

# Edges and agents register themselves. Agents register their backends too, each under its model's name: allow those you have, or
# set consul.service to one name and allow that, or give agents this on top:
#   service_prefix "" { policy = "write" }
service "pilotlight-edge" {
  policy = "write"
}
service "pilotlight-agent" {
  policy = "write"
}

# Live models are read, locks and history are written, and the keys of services are touched when these change.
key_prefix "pilotlight/" {
  policy = "write"
}

# Locks are held by sessions.
session_prefix "" {
  policy = "write"
}
