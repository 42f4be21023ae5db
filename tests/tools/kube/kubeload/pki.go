package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// authority signs the certificates of one test; its key is never written.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	serial      int64
}

// writePKI writes ca.crt, apiserver.crt and .key, the keys of service account tokens sa.key and sa.pub, and
// admin.kubeconfig for a client that may do everything.
func writePKI(dir, port string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	authority, ca, err := newAuthority()
	if err != nil {
		return err
	}
	serverCert, serverKey, err := authority.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:    []string{"localhost", "kubernetes.default.svc"},
	})
	if err != nil {
		return err
	}
	adminCert, adminKey, err := authority.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	tokens, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tokensKey, err := keyPEM(tokens)
	if err != nil {
		return err
	}
	tokensPublic, err := x509.MarshalPKIXPublicKey(&tokens.PublicKey)
	if err != nil {
		return err
	}
	for name, contents := range map[string][]byte{
		"ca.crt":        ca,
		"apiserver.crt": serverCert,
		"apiserver.key": serverKey,
		"sa.key":        tokensKey,
		"sa.pub":        pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: tokensPublic}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), contents, 0o600); err != nil {
			return err
		}
	}
	config := api.NewConfig()
	config.Clusters["test"] = &api.Cluster{
		Server: "https://127.0.0.1:" + port, CertificateAuthorityData: ca,
	}
	config.AuthInfos["admin"] = &api.AuthInfo{ClientCertificateData: adminCert, ClientKeyData: adminKey}
	config.Contexts["test"] = &api.Context{Cluster: "test", AuthInfo: "admin"}
	config.CurrentContext = "test"
	return clientcmd.WriteToFile(*config, filepath.Join(dir, "admin.kubeconfig"))
}

func newAuthority() (*authority, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test authority"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	valid(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return &authority{certificate: certificate, key: key, serial: 1}, certPEM(der), nil
}

// issue makes a key, completes the template and signs it; both as PEM, the certificate first.
func (a *authority) issue(template *x509.Certificate) ([]byte, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	valid(template)
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot sign for %s: %w", template.Subject, err)
	}
	private, err := keyPEM(key)
	return certPEM(der), private, err
}

// valid lets a certificate live for a day around now: long enough for any test and any clock.
func valid(template *x509.Certificate) {
	template.NotBefore = time.Now().Add(-12 * time.Hour)
	template.NotAfter = time.Now().Add(12 * time.Hour)
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
