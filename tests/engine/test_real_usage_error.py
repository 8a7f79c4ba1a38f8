"""What the real vLLM's refusal of its arguments comes to."""

from support.real_vllm import START, Service


def test_a_usage_error_is_permanent_and_names_the_flag():
    with Service() as service:
        service.wish(256, "--no-such-flag", "1")
        health = service.until("Failed", START, also=lambda h: h["engine"] == "Absent")
        assert health["reason"] == "BadArguments"
        assert "--no-such-flag 1" in health["message"]
        assert (health["result"], health["attempt"], health["nextTry"]) == ("failure", 1, None)
        service.says("transition", to="Failed")
        assert service.path() == ["Loading", "Failed"]
        assert service.ours() == []
        assert service.scratch() == service.marks() == []
        service.store.write_text("{}")
        service.until("NoModel", 5)
        assert len(service.events("engine-started")) == 1
