"""Every DNS provider there is. A new one: copy a file, add a line here, a test and a page in docs."""

PROVIDERS = {
    "cloudflare": "dnsproviders.cloudflare.Cloudflare",
    "aliyun": "dnsproviders.aliyun.Aliyun",
    "rfc2136": "dnsproviders.rfc2136.RFC2136",
    "httpreq": "dnsproviders.httpreq.HttpReq",
}
ALIASES = {"ali": "aliyun"}
