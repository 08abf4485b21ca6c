// Package credentials holds what podd and its clients say to each other about who may use the TLS port:
//
//	GET /podd/v1/credentials?user=admin|reader  -> Credentials
//
// Whoever may open podd's unix socket may ask, and so may an administrator over TLS. A refusal is a metav1.Status, as
// everywhere in the API. It imports nothing of podd's, so that a client does not carry the server.
package credentials

import "time"

// Path of the request; the parameter user says for whom.
const Path = "/podd/v1/credentials"

// The two users of the TLS port.
const (
	Admin  = "admin"  // may do everything
	Reader = "reader" // may get, list and watch what is no secret, and read logs
)

// Credentials is what it takes to use the TLS port as one of the users. The certificate and the token are each enough
// on a loopback address; on others the certificate is needed. Every answer has a certificate and key of its own.
type Credentials struct {
	User              string    `json:"user"`              // Admin or Reader
	Server            string    `json:"server"`            // e.g. https://127.0.0.1:6550
	CA                []byte    `json:"ca"`                // PEM (base64 in JSON, as in a kubeconfig's ...-data)
	ClientCertificate []byte    `json:"clientCertificate"` // PEM
	ClientKey         []byte    `json:"clientKey"`         // PEM
	Token             string    `json:"token"`             // bearer token; does not expire
	Expires           time.Time `json:"expires"`           // when the client certificate does
	NodeName          string    `json:"nodeName"`
}
