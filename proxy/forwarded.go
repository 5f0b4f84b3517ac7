package proxy

import (
	"bytes"
	"net"
	"net/netip"
	"slices"

	"pilotlight/config"
)

// Who forwarded a request to us is told in X-Forwarded-For, each proxy adding at the right the address from which it had the request.
// Anybody can write there what they like, so only what a proxy says that is trusted is believed: of its list the
// address on the far right, and if that is a trusted one too the next, and so on.

// networks are those of the trusted proxies.
type networks []netip.Prefix

func networksOf(all []config.Network) networks {
	var n networks
	for _, network := range all {
		n = append(n, network.Prefix())
	}
	return n
}

func (n networks) hold(ip netip.Addr) bool {
	return slices.ContainsFunc(n, func(p netip.Prefix) bool { return p.Contains(ip.Unmap()) })
}

// trust says whether who connects from an address is a trusted proxy.
func (n networks) trust(remote net.Addr) bool {
	if len(n) == 0 {
		return false
	}
	at, err := netip.ParseAddrPort(remote.String())
	return err == nil && n.hold(at.Addr())
}

// client is the first address from the right of the chain that is not trusted; what no address is ends the search. The
// chain is that of a request that came from the trusted address peer.
func (n networks) client(h *head, peer string) string {
	client := peer
	chain := h.chain(nil)
	for len(chain) > 0 {
		i := bytes.LastIndexByte(chain, ',')
		ip, ok := hop(chain[i+1:])
		if !ok {
			break
		}
		if client = ip.Unmap().String(); !n.hold(ip) {
			break
		}
		chain = chain[:max(i, 0)]
	}
	return client
}

// hop reads an address of the chain. Some proxies write ports.
func hop(b []byte) (netip.Addr, bool) {
	s := string(bytes.Trim(b, " \t"))
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.WithZone(""), true
	}
	if at, err := netip.ParseAddrPort(s); err == nil {
		return at.Addr().WithZone(""), true
	}
	ip, err := netip.ParseAddr(string(bytes.Trim(bytes.Trim(b, " \t"), "[]")))
	return ip.WithZone(""), err == nil
}

// chain appends what the request says in X-Forwarded-For, as one list.
func (h *head) chain(dst []byte) []byte {
	from := len(dst)
	for name, value := range h.each {
		if is(name, "x-forwarded-for") && len(value) > 0 {
			if len(dst) > from {
				dst = append(dst, ", "...)
			}
			dst = append(dst, value...)
		}
	}
	return dst
}

// each goes through the fields, which have been scanned.
func (h *head) each(yield func(name, value []byte) bool) {
	for rest := h.fields; len(rest) > 0; {
		name, value, next, err := cutField(rest)
		if err != nil {
			panic("BUG: a header field that was checked is malformed")
		}
		if !yield(name, value) {
			return
		}
		rest = next
	}
}

// get is the last field of a name, which is given in lower case.
func (h *head) get(lower string) (last []byte) {
	for name, value := range h.each {
		if is(name, lower) {
			last = value
		}
	}
	return last
}

// ofAProxy names the fields that we answer or say anew even where a trusted proxy sent them.
func ofAProxy(name []byte) bool {
	return is(name, "expect") || is(name, "trailer") || is(name, "x-forwarded-for") || isForwarded(name) && bytes.IndexByte(name, '_') >= 0
}

// isForwarded says whether a field tells who forwarded the request. To some backends _ is the same as -.
func isForwarded(name []byte) bool {
	const prefix = "x-forwarded-"
	return is(name, "forwarded") ||
		len(name) > len(prefix) && (is(name[:len(prefix)], prefix) || masked(name[:len(prefix)], prefix))
}

// appendForwarded appends who forwarded the request: the client and, if it is a trusted proxy, whom that names.
func (m *message) appendForwarded(dst []byte) []byte {
	var host, proto bool
	if m.trusted {
		for name := range m.head.each {
			host = host || is(name, "x-forwarded-host")
			proto = proto || is(name, "x-forwarded-proto")
		}
	}
	if m.head.host != nil && !host {
		dst = append(append(append(dst, "X-Forwarded-Host: "...), m.head.host...), "\r\n"...)
	}
	dst = append(dst, "X-Forwarded-For: "...)
	if m.trusted {
		before := len(dst)
		if dst = m.head.chain(dst); len(dst) > before {
			dst = append(dst, ", "...)
		}
	}
	dst = append(append(dst, m.client...), "\r\n"...)
	if !proto {
		dst = appendField(dst, "X-Forwarded-Proto", m.proto)
	}
	return dst
}
