package fileaudit

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const othersMask = 0o077

// openKey reads the key that signs, or makes one, which is not on the disk then
// before it is saved.
func openKey(path string) (key ed25519.PrivateKey, made bool, err error) {
	_, err = os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, key, err = ed25519.GenerateKey(nil); err != nil {
			return nil, false, fmt.Errorf("make the audit's key: %w", err)
		}
		return key, true, nil
	}
	key, err = readKey(path)
	return key, false, err
}

func readKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("the audit's key: %w", err)
	}
	if info.Mode().Perm()&othersMask != 0 {
		return nil, fmt.Errorf("the audit's key %s can be read by others (mode %04o): chmod 600 it, and take a new one if somebody may have seen it", path, info.Mode().Perm())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the audit's key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("the audit's key %s is not a PRIVATE KEY in PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, is := parsed.(ed25519.PrivateKey)
	if err != nil || !is {
		return nil, fmt.Errorf("the audit's key %s is not an Ed25519 key (PKCS #8)", path)
	}
	return key, nil
}

func saveKey(path string, key ed25519.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make the audit's key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return fmt.Errorf("make the audit's key: %w", err)
	}
	if err := replace(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return fmt.Errorf("make the audit's key: %w", err)
	}
	return nil
}

// publish writes the public key, unless it is there.
func publish(path string, key ed25519.PublicKey) error {
	if there, err := ReadPublicKey(path); err == nil && there.Equal(key) {
		return nil
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("write the audit's public key: %w", err)
	}
	if err := replace(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
		return fmt.Errorf("write the audit's public key: %w", err)
	}
	return nil
}

// ReadPublicKey reads a public key as a [Log] writes it to audit.pub. The one
// beside a log proves nothing to who does not trust that directory: keep a copy
// elsewhere.
func ReadPublicKey(path string) (ed25519.PublicKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the audit's public key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%s is not a PUBLIC KEY in PEM", path)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	key, is := parsed.(ed25519.PublicKey)
	if err != nil || !is {
		return nil, fmt.Errorf("%s is not an Ed25519 public key", path)
	}
	return key, nil
}
