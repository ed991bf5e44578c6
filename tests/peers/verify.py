#!/usr/bin/python3
"""The independent verifiers behind tests/verdicts: dkimpy, pyspf and OpenDMARC (libopendmarc), asking one name server.

    verify.py sign   < [{"message", "by", "key", "algorithm", "canonicalization", "tags", "headers"}, ...]
    verify.py verify < {"name_server": "127.0.0.1:5353", "cases": [{"message", "client", "helo", "sender"}, ...]}

Octets are base64 in both directions. `sign` prints a DKIM-Signature field for each request; `verify` prints
{"dkim": [...], "spf": ..., "dmarc": ...} for each case. DMARC rests on what dkimpy and pyspf found, not on us.
"""

import base64
import concurrent.futures
import ctypes
import email
import email.policy
import email.utils
import hashlib
import ipaddress
import json
import os
import re
import socket
import struct
import sys
import tempfile
import threading

# Seconds that one DNS question may take; glibc's resolver (used by libopendmarc) is told by the environment.
DNS_SECONDS = 2
os.environ["RES_OPTIONS"] = f"timeout:{DNS_SECONDS} attempts:1"
PUBLIC_SUFFIXES = "/usr/share/publicsuffix/public_suffix_list.dat"

import dkim
import dkim.canonicalization
import dkim.crypto
import dns.exception
import dns.resolver
import nacl.encoding
import nacl.signing
import spf


class DnsTrouble(Exception):
    """No answer: another time there may be one."""


def resolver(name_server):
    host, port = name_server.rsplit(":", 1)
    asking = dns.resolver.Resolver(configure=False)
    asking.nameservers, asking.port = [host], int(port)
    asking.timeout = asking.lifetime = DNS_SECONDS
    return asking


# --- DKIM -------------------------------------------------------------------------------------------------------------


def dkim_results(message, asking):
    """`pass`, `fail` or `temperror` for each signature, in the order of the fields."""

    def txt(name, timeout=5):
        name = name.decode() if isinstance(name, bytes) else name
        try:
            answer = asking.resolve(name, "TXT", search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return None
        except dns.exception.DNSException as error:
            raise DnsTrouble(str(error))
        return b"".join(answer[0].strings)

    try:
        verifier = dkim.DKIM(message)
    except dkim.DKIMException:
        return []
    results = []
    for index in range(sum(1 for name, _ in verifier.headers if name.lower() == b"dkim-signature")):
        try:
            passed = dkim.DKIM(message).verify(idx=index, dnsfunc=txt)
            results.append("pass" if passed else "fail")
        except DnsTrouble:
            results.append("temperror")
        except (dkim.DKIMException, ValueError, TypeError, KeyError, IndexError):
            results.append("fail")
    return results


def signature_field(request):
    message = base64.b64decode(request["message"])
    headers = [name.encode() for name in request["headers"]]
    algorithm = request["algorithm"].encode()
    canonicalization = request["canonicalization"].encode()
    key = request["key"].encode()
    tags = request["tags"]
    if request["by"] == "dkimpy":
        given = dict(tags)
        signer = dkim.DKIM(message, signature_algorithm=algorithm, minkey=512)
        return signer.sign(
            given["s"].encode(),
            given["d"].encode(),
            key,
            identity=given["i"].encode() if "i" in given else None,
            canonicalize=tuple(canonicalization.split(b"/")),
            include_headers=headers,
            length="l" in given,
        )
    return tags_as_told(message, headers, algorithm, canonicalization, key, tags)


def tags_as_told(message, headers, algorithm, canonicalization, key, tags):
    """A correct signature over a DKIM-Signature field with just these tags, sensible or not."""
    policy = dkim.canonicalization.CanonicalizationPolicy.from_c_value(canonicalization)
    fields, body = dkim.rfc822_parse(message)
    canonical = policy.canonicalize_body(body)
    length = dict(tags).get("l")
    if length is not None and length.isdigit():
        canonical = canonical[: int(length)]
    hashing = hashlib.sha1 if algorithm == b"rsa-sha1" else hashlib.sha256
    hashed = base64.b64encode(hashing(canonical).digest()).decode()
    named = [("a", algorithm.decode()), ("c", canonicalization.decode()), ("bh", hashed)]
    if headers:
        named.append(("h", ":".join(name.decode() for name in headers)))
    value = " " + "; ".join(f"{name}={text}" for name, text in tags + named) + "; b="
    signed = dkim.select_headers(fields, [name.lower() for name in headers])
    data = b"".join(name + b":" + text for name, text in policy.canonicalize_headers(signed))
    [(name, text)] = policy.canonicalize_headers([(b"DKIM-Signature", value.encode() + b"\r\n")])
    data += name + b":" + text.rstrip(b"\r\n")
    if algorithm == b"ed25519-sha256":
        signing = nacl.signing.SigningKey(key, encoder=nacl.encoding.Base64Encoder)
        signature = signing.sign(hashlib.sha256(data).digest()).signature
    else:
        digest = hashing(data)
        digest.name  # dkimpy finds the DigestInfo by it
        signature = dkim.crypto.RSASSA_PKCS1_v1_5_sign(digest, dkim.crypto.parse_pem_private_key(key))
    return b"DKIM-Signature:" + value.encode() + base64.b64encode(signature) + b"\r\n"


# --- SPF --------------------------------------------------------------------------------------------------------------


def spf_result(case):
    """pyspf's word, with the domain and identity that it judged."""
    client = ipaddress.ip_address(case["client"])
    client = getattr(client, "ipv4_mapped", None) or client
    result, _ = spf.check2(str(client), case["sender"], case["helo"], timeout=DNS_SECONDS, querytime=4 * DNS_SECONDS)
    return result


# --- DMARC ------------------------------------------------------------------------------------------------------------


class Library(ctypes.Structure):
    """OPENDMARC_LIB_T of dmarc.h."""

    _fields_ = [
        ("tld_type", ctypes.c_int),
        ("tld_source_file", ctypes.c_char * 4096),
        ("nscount", ctypes.c_int),
        ("nsaddr_list", (ctypes.c_char * 16) * 3),
        # Fields that later versions add.
        ("room", ctypes.c_char * 64),
    ]


# dmarc.h
TLD_TYPE_MOZILLA = 1
ORIGIN_MAILFROM, ORIGIN_HELO = 1, 2
OUTCOMES = {"none": 0, "pass": 1, "fail": 2, "temperror": 3}
QUERY_OKAY, QUERY_NO_RECORD, QUERY_NXDOMAIN, QUERY_TEMPORARY = 0, 9, 10, 11
POLICIES = {14: "none", 15: "pass", 16: "fail p=reject", 17: "fail p=quarantine", 18: "fail p=none"}


class OpenDmarc:
    def __init__(self, name_server):
        host, port = name_server.rsplit(":", 1)
        self.library = ctypes.CDLL("libopendmarc.so.2")
        self.library.opendmarc_policy_connect_init.restype = ctypes.c_void_p
        # libopendmarc has no rule for what is not on the list, and .example is not.
        self.suffixes = tempfile.NamedTemporaryFile("w", suffix=".dat")
        with open(PUBLIC_SUFFIXES) as suffixes:
            self.suffixes.write(suffixes.read() + "\nexample\n")
        self.suffixes.flush()
        path = self.suffixes.name.encode()
        self.setting = Library(tld_type=TLD_TYPE_MOZILLA, tld_source_file=path, nscount=1)
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", int(port)) + socket.inet_aton(host) + bytes(8)
        ctypes.memmove(ctypes.addressof(self.setting.nsaddr_list), address, 16)
        if self.library.opendmarc_policy_library_init(ctypes.byref(self.setting)) != 0:
            raise SystemExit("libopendmarc does not start")

    def result(self, author, client, spf_domain, spf_result, spf_origin, signatures):
        call = self.library
        kind = 4 if ":" not in client else 6
        context = ctypes.c_void_p(call.opendmarc_policy_connect_init(client.encode(), kind))
        try:
            call.opendmarc_policy_store_from_domain(context, author.encode())
            outcome = OUTCOMES.get(spf_result, OUTCOMES["fail"])
            if spf_domain:
                call.opendmarc_policy_store_spf(context, spf_domain.encode(), outcome, spf_origin, b"")
            for domain, result in signatures:
                call.opendmarc_policy_store_dkim(context, domain.encode(), None, OUTCOMES[result], b"")
            found = call.opendmarc_policy_query_dmarc(context, author.encode())
            if found == QUERY_TEMPORARY:
                return "temperror"
            if found in (QUERY_NO_RECORD, QUERY_NXDOMAIN):
                return "none"
            if found != QUERY_OKAY:
                return "none"
            return POLICIES.get(call.opendmarc_get_policy_to_enforce(context), "?")
        finally:
            call.opendmarc_policy_connect_shutdown(context)


def author_domain(message):
    """The one domain of the one From field, as Python's mail package reads it; None where there is no such thing."""
    parsed = email.message_from_bytes(message, policy=email.policy.compat32)
    fields = parsed.get_all("From") or []
    if len(fields) != 1:
        return None
    addresses = [address for _, address in email.utils.getaddresses([str(fields[0])]) if "@" in address]
    domains = {address.rsplit("@", 1)[1].lower() for address in addresses}
    return domains.pop() if len(domains) == 1 else None


def signing_domains(message):
    fields = email.message_from_bytes(message, policy=email.policy.compat32).get_all("DKIM-Signature") or []
    domains = []
    for field in fields:
        found = re.search(r"(?:^|;)\s*d\s*=\s*([^;\s]+)", str(field))
        domains.append(found.group(1) if found else "")
    return domains


# --- all of it --------------------------------------------------------------------------------------------------------


def verify(task):
    asking = resolver(task["name_server"])
    dns.resolver.default_resolver = asking
    opendmarc = OpenDmarc(task["name_server"])
    # libopendmarc keeps its resolver state to itself, but nobody promises that it may be called by several threads.
    alone = threading.Lock()

    def judge(case):
        message = base64.b64decode(case["message"])
        signatures = dkim_results(message, resolver(task["name_server"]))
        spf_found = spf_result(case)
        author = author_domain(message)
        dmarc = "none"
        if author:
            origin = ORIGIN_MAILFROM if case["sender"] else ORIGIN_HELO
            domain = case["sender"].rsplit("@", 1)[1] if case["sender"] else case["helo"]
            with alone:
                dmarc = opendmarc.result(
                    author, case["client"], domain, spf_found, origin, list(zip(signing_domains(message), signatures))
                )
        return {"dkim": signatures, "spf": spf_found, "dmarc": dmarc}

    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(judge, task["cases"]))


def main():
    task = json.load(sys.stdin)
    if sys.argv[1:] == ["sign"]:
        answer = [base64.b64encode(signature_field(request)).decode() for request in task]
    elif sys.argv[1:] == ["verify"]:
        answer = verify(task)
    else:
        raise SystemExit(__doc__)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
